//! Where two messages part, by their `{:#?}` forms: prost's messages have no reflection, but their debug form names
//! every field and every enum value.

/// Path and problem of the first difference of `actual` from `expected`.
pub(super) fn first_difference(actual: &str, expected: &str) -> (String, String) {
    let mut stack: Vec<Frame> = Vec::new();
    let (actual, expected): (Vec<&str>, Vec<&str>) = (actual.lines().collect(), expected.lines().collect());
    let (actual, expected) = (in_order(&actual, false), in_order(&expected, false));
    let mut others = expected.into_iter();
    for line in actual {
        let same = others.next() == Some(line);
        let indent = line.len() - line.trim_start().len();
        let text = line.trim();
        stack.retain(|frame| frame.indent < indent);
        let closing = text.starts_with(['}', ')', ']']);
        let step = if closing { None } else { step(text, stack.last_mut()) };
        if !same {
            return describe(&stack, step, text);
        }
        if text.ends_with(['{', '(', '[']) && !closing {
            stack.push(Frame { indent, step, list: text.ends_with('['), items: 0 });
        }
    }
    (path(&stack, None), "is not supported".to_owned())
}

/// The lines of a block with the entries of maps sorted: a hash map shows them in any order.
fn in_order<'a>(lines: &[&'a str], map: bool) -> Vec<&'a str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let Some(base) = lines.first().map(|line| indent(line)) else { return Vec::new() };
    let starts = |line: &str| indent(line) == base && !line.trim_start().starts_with(['}', ')', ']']);
    let mut entries: Vec<Vec<&'a str>> = Vec::new();
    for entry in lines.chunk_by(|_, next| !starts(next)) {
        let Some((first, rest)) = entry.split_first() else { continue };
        // The last line closes what the first one opened.
        let Some((last, inner)) = rest.split_last() else {
            entries.push(entry.to_vec());
            continue;
        };
        let of_map = first.ends_with('{') && inner.first().is_some_and(|line| line.trim_start().starts_with('"'));
        entries.push([&[*first][..], &in_order(inner, of_map), &[*last]].concat());
    }
    if map {
        entries.sort();
    }
    entries.concat()
}

struct Frame {
    indent: usize,
    step: Option<String>,
    list: bool,
    items: usize,
}

/// The name of a field, or the index of an item in a list; `None` for a wrapper such as `Some(` or a type's name.
fn step(text: &str, parent: Option<&mut Frame>) -> Option<String> {
    if let Some(parent) = parent
        && parent.list
    {
        let index = parent.items;
        parent.items += 1;
        return Some(format!("[{index}]"));
    }
    let (name, _) = text.split_once(": ")?;
    // Debug writes a name that is a keyword of Rust as `r#type`.
    Some(name.trim_matches('"').trim_start_matches("r#").to_owned())
}

fn describe(stack: &[Frame], step: Option<String>, text: &str) -> (String, String) {
    let at = path(stack, step);
    let value = text.split_once(": ").map_or(text, |(_, value)| value).trim_end_matches(',');
    let scalar = !value.is_empty() && !value.ends_with(['{', '(', '[', '}', ')', ']']) && value.len() <= 200;
    let problem = if scalar { format!("{value} is not supported") } else { "is not supported".to_owned() };
    (at, problem)
}

fn path(stack: &[Frame], last: Option<String>) -> String {
    let mut path = String::new();
    for step in stack.iter().filter_map(|frame| frame.step.as_ref()).chain(last.as_ref()) {
        if !path.is_empty() && !step.starts_with('[') {
            path.push('.');
        }
        path.push_str(step);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[allow(dead_code)]
    struct Inner {
        kind: &'static str,
        size: Option<u32>,
    }

    #[derive(Debug)]
    #[allow(dead_code)]
    struct Outer {
        name: &'static str,
        items: Vec<Inner>,
        last: Option<Inner>,
    }

    #[test]
    fn the_first_difference_has_its_path() {
        let inner = |kind, size| Inner { kind, size };
        let base = |second, last| Outer { name: "x", items: vec![inner("a", None), second], last };
        let expected = format!("{:#?}", base(inner("b", None), None));
        let cases = [
            (base(inner("c", None), None), "items[1].kind", "\"c\" is not supported"),
            (base(inner("b", Some(1)), None), "items[1].size", "is not supported"),
            (base(inner("b", None), Some(inner("z", None))), "last", "is not supported"),
        ];
        for (actual, path, problem) in cases {
            assert_eq!(first_difference(&format!("{actual:#?}"), &expected), (path.to_owned(), problem.to_owned()));
        }
    }

    #[test]
    fn the_order_of_a_map_is_no_difference() {
        let shown = |entries: &[&str], after: &str| {
            let entries: String = entries
                .iter()
                .map(|e| format!("        \"{e}\": Value {{\n            of: 1,\n        }},\n"))
                .collect();
            format!("Outer {{\n    map: {{\n{entries}    }},\n    after: {after},\n}}")
        };
        let (path, problem) = first_difference(&shown(&["a", "b"], "2"), &shown(&["b", "a"], "3"));
        assert_eq!((path.as_str(), problem.as_str()), ("after", "2 is not supported"));
        let (path, _) = first_difference(&shown(&["a", "c"], "2"), &shown(&["b", "a"], "2"));
        assert_eq!(path, "map.c");
    }
}

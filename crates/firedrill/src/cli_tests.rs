use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn colour_is_found_before_parsing() {
    let asked = |text: &str| color_asked(&text.split(' ').map(Into::into).collect::<Vec<_>>());
    assert_eq!(asked("firedrill check"), When::Auto);
    assert_eq!(asked("firedrill --color never check"), When::Never);
    assert_eq!(asked("firedrill check --color=always"), When::Always);
    assert_eq!(asked("firedrill check --color"), When::Auto);
}

#[test]
fn an_option_does_not_swallow_the_argument_after_it() {
    for line in [
        "firedrill drill run -f mesh lose-east",
        "firedrill drill run lose-east -f mesh",
        "firedrill drill run -f a.yaml -f b.yaml lose-east",
        "firedrill check mesh",
        "firedrill check a.yaml b.yaml",
        "firedrill check -f a.yaml b.yaml",
        "firedrill up mesh",
        "firedrill apply mesh --dry-run",
    ] {
        assert_eq!(parsed(line), Ok(()), "{line}");
    }
}

/// Every command line that README, guides, examples and help texts show is one that the program accepts.
#[test]
fn every_documented_command_line_is_accepted() {
    let mut lines = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        lines.extend(command_lines(&text).into_iter().map(|line| (path.display().to_string(), line)));
    }
    collect_help(&Cli::command(), &mut lines);
    assert!(lines.len() > 100, "only {} command lines were found: does the search still work?", lines.len());
    let refused: Vec<_> = lines
        .iter()
        .filter_map(|(place, line)| parsed(line).err().map(|why| format!("{place}: {line}\n  {why}")))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

fn parsed(line: &str) -> Result<(), String> {
    use clap::error::ErrorKind;
    match Cli::command().try_get_matches_from(words(line)) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Ok(()),
        Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Words as a shell splits them: quotes keep spaces together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// In a sentence, `firedrill backup` may stand without what it needs; what is there must exist.
fn is_mention_of_something(line: &str) -> bool {
    let missing = ["required arguments were not provided", "a value is required"];
    line.contains("COMMAND")
        || parsed(line).is_ok()
        || parsed(line).is_err_and(|why| missing.iter().any(|m| why.contains(m)))
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![root.join("README.md"), root.join("SECURITY.md"), root.join("CONTRIBUTING.md")];
    let mut folders = vec![root.join("docs"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md" || extension == "yaml") {
                found.push(path);
            }
        }
    }
    found
}

/// Lines that are commands, comments of manifests included, and those mentions in sentences that name nothing there is.
fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let text = text.replace("cargo run --release -- ", "firedrill ");
    for line in text.lines() {
        let bare = line.trim_start_matches(['#', ' ', '$']);
        let in_block = line.starts_with("    ") || line.starts_with('#') || line.starts_with("firedrill ");
        if in_block && bare.starts_with("firedrill ") {
            found.extend(command(bare));
        } else {
            let mentions = line.split('`').skip(1).step_by(2).filter(|code| code.starts_with("firedrill "));
            found.extend(mentions.filter_map(command).filter(|line| !is_mention_of_something(line)));
        }
    }
    found
}

/// A command without the comment behind it; `None` for one that leaves something out, or is no more than a part of one.
fn command(text: &str) -> Option<String> {
    let text = text.split("  ").next()?.split(" #").next()?.split(" > ").next()?.split(" | ").next()?.trim();
    let is_whole = !text.contains(['…', '[']) && !text.ends_with('\\');
    // The name of a group, as in "`firedrill drill` runs a drill", is no command line.
    let names_group =
        Cli::command().find_subcommand(text.strip_prefix("firedrill ")?).is_some_and(clap::Command::has_subcommands);
    (is_whole && !names_group).then(|| text.to_owned())
}

/// The examples in the help of a command and of those below it.
fn collect_help(command: &clap::Command, found: &mut Vec<(String, String)>) {
    for help in command.get_after_help().into_iter().chain(command.get_after_long_help()) {
        for line in help.to_string().lines().filter_map(|line| line.strip_prefix("  ")) {
            if line.starts_with("firedrill ") {
                found.extend(self::command(line).map(|line| (format!("help of {}", command.get_name()), line)));
            }
        }
    }
    for below in command.get_subcommands() {
        collect_help(below, found);
    }
}

//! Canonical JSON (RFC 8785), so that what is hashed and signed has one spelling only.

pub mod json;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Largest integer that every JSON reader keeps exactly (2^53 − 1). RFC 8785 rounds larger ones silently.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// A value that has no canonical spelling, or text that is not in it.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Cannot be written.
    #[error("cannot be written as JSON: {0}")]
    Write(serde_json::Error),
    /// Cannot be read.
    #[error("is not the JSON that was expected: {0}")]
    Read(serde_json::Error),
    /// Read, but spelled in another way.
    #[error("is not in canonical form from byte {0}")]
    Spelling(usize),
    /// Its values would need too much memory.
    #[error("has more values than are read")]
    TooLarge,
    /// Arrays and objects are nested too deeply.
    #[error("is nested too deeply")]
    TooDeep,
}

/// `value` with every integer beyond 2^53 − 1 as a string of its digits.
pub fn exact(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match magnitude {
                Some(magnitude) if magnitude > MAX_EXACT => Value::String(number.to_string()),
                _ => Value::Number(number),
            }
        }
        Value::Array(items) => Value::Array(items.into_iter().map(exact).collect()),
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(name, value)| (name, exact(value))).collect()),
        other => other,
    }
}

/// Canonical bytes of anything that serialises; large integers become strings (see [`exact`]).
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let value = exact(serde_json::to_value(value).map_err(CanonicalError::Write)?);
    serde_json_canonicalizer::to_vec(&value).map_err(CanonicalError::Write)
}

/// Memory that the values of one document of our own may need.
const OWN: usize = 1 << 30;

/// Reads canonical bytes; any other spelling of the same value is refused. What others made is read with a smaller budget
/// ([`json::from_slice`]).
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    json::from_slice(bytes, &mut { OWN })
}

/// Position of the first byte in which two texts differ.
pub fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()))
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// `sha256:<hex>` of the bytes, the way digests are shown to people.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(bytes)))
}

/// `sha256:<hex>` over the canonical JSON of a value: the digest of a plan and drill as registered.
pub fn digest_of<T: Serialize>(value: &T) -> Result<String, CanonicalError> {
    Ok(digest(&to_vec(value)?))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Reads 64 lower-case hexadecimal digits.
pub fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Serde form of an integer that may exceed 2^53: a string of digits; numbers are read too.
pub mod big {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        Number(T),
        Text(String),
    }

    /// Writes the digits.
    pub fn serialize<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    /// Reads digits or a number.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: Deserialize<'de> + std::str::FromStr,
        D: Deserializer<'de>,
    {
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(number),
            Either::Text(text) => text.parse().map_err(|_| serde::de::Error::custom("expected an integer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rfc_8785_samples() {
        // RFC 8785, section 3.2.2 and 3.2.3.
        let value: Value = serde_json::from_str(
            r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(to_vec(&value).unwrap()).unwrap(),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
    }

    #[test]
    fn large_integers_keep_every_digit() {
        let bytes = to_vec(&json!({"a": 1_763_660_677_120_000_001_i64, "b": [-9_007_199_254_740_993_i64], "c": 9_007_199_254_740_991_u64})).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"a":"1763660677120000001","b":["-9007199254740993"],"c":9007199254740991}"#
        );
    }

    #[test]
    fn another_spelling_is_refused() {
        assert!(from_slice::<Value>(br#"{"a":1,"b":2}"#).is_ok());
        for text in [r#"{"b":2,"a":1}"#, r#"{"a": 1}"#, r#"{"a":1.0}"#, r#"{"a":1,"a":1}"#, "{\"a\":1}\n"] {
            assert!(from_slice::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }
}

//! What parsing and writing JSON takes here beyond serde: text that is not copied, lists that end, objects that are
//! objects, and ASCII output.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Objects and arrays inside each other, at most. The package nests five.
const MAX_DEPTH: usize = 64;

/// Whether no value lies deeper than [`MAX_DEPTH`]. Asked before anything is parsed; also true for much that is no JSON.
pub fn shallow(text: &str) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// Puts `null` and spaces in place of the `NaN`, `Infinity` and `-Infinity` that Python writes for numbers without a finite
/// value, which are no JSON; statistics may hold them, and nothing that is read here.
pub fn finite(json: &mut [u8]) {
    const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let (mut at, mut quoted) = (0, false);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'N' | b'-' | b'I' if !quoted => {
                let rest = json.get_mut(at..).unwrap_or_default();
                if let Some(word) = WORDS.into_iter().find(|word| rest.starts_with(word)) {
                    // `NaN` is shorter than `null`, and 0 as good.
                    let filler: &[u8] = if word.len() < 4 { b"0" } else { b"null" };
                    for (i, to) in rest.iter_mut().take(word.len()).enumerate() {
                        *to = filler.get(i).copied().unwrap_or(b' ');
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// A string, borrowed from the text unless it has escapes. Unlike `Cow`, it is so also inside lists and options.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        d.deserialize_str(Read)
    }
}

/// A list of at most `MAX` values; the value after the last one allowed is not read.
#[derive(Debug)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Read<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} values")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    if values.len() == MAX {
                        return Err(A::Error::custom(format_args!("a list of more than {MAX} values")));
                    }
                    values.push(value);
                }
                Ok(List(values))
            }
        }
        d.deserialize_seq(Read(PhantomData))
    }
}

/// A struct that is written as an object. (Derived code also takes a list of the values.)
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        d.deserialize_map(Read(PhantomData))
    }
}

/// The members of an object in their order, repeated names included; at most `MAX`.
#[derive(Debug)]
pub struct Members<'a, T, const MAX: usize>(pub Vec<(Text<'a>, T)>);

impl<'de: 'a, 'a, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Members<'a, T, MAX> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Read<T, MAX> {
            type Value = Members<'de, T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {MAX} members")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() == MAX {
                        return Err(A::Error::custom(format_args!("an object of more than {MAX} members")));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(Read(PhantomData))
    }
}

/// Appends a string as serde_json writes it: UTF-8, escapes only where JSON needs them.
pub fn put_text(to: &mut Vec<u8>, text: &str) {
    // Nothing can fail: memory takes all bytes, and a string is always JSON.
    let _ = serde_json::to_writer(to, text);
}

/// Appends a string as Python's `json.dumps` writes it: ASCII, everything else as UTF-16 in `\u` escapes.
pub fn put_ascii(to: &mut Vec<u8>, text: &str) {
    to.push(b'"');
    for c in text.chars() {
        match c {
            '"' => to.extend_from_slice(b"\\\""),
            '\\' => to.extend_from_slice(b"\\\\"),
            '\n' => to.extend_from_slice(b"\\n"),
            '\r' => to.extend_from_slice(b"\\r"),
            '\t' => to.extend_from_slice(b"\\t"),
            '\u{8}' => to.extend_from_slice(b"\\b"),
            '\u{c}' => to.extend_from_slice(b"\\f"),
            ' '..='~' => to.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    to.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
    }
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_strings() {
        assert!(shallow(&("[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH))));
        assert!(!shallow(&"[".repeat(MAX_DEPTH + 1)));
        assert!(!shallow(&"{\"a\":".repeat(MAX_DEPTH + 1)));
        assert!(shallow(&format!("\"{}\"", "[".repeat(1000))));
        assert!(shallow(&format!("\"\\\"{}\"", "[".repeat(1000))));
        assert!(shallow(&"[]".repeat(1000)));
    }

    #[test]
    fn objects_are_objects_and_lists_end() {
        #[derive(serde::Deserialize)]
        struct One<'a> {
            #[serde(borrow)]
            a: Text<'a>,
        }
        assert_eq!(serde_json::from_str::<Object<One>>(r#"{"a":"x"}"#).unwrap().0.a.0, "x");
        assert!(serde_json::from_str::<Object<One>>(r#"["x"]"#).is_err());
        assert!(serde_json::from_str::<Object<One>>(r#"{"a":"x","a":"x"}"#).is_err());
        assert!(serde_json::from_str::<List<u64, 2>>("[1,2]").is_ok());
        assert!(serde_json::from_str::<List<u64, 2>>("[1,2,3]").is_err());
        let Members(found) = serde_json::from_str::<Members<u64, 2>>(r#"{"b":1,"b":2}"#).unwrap();
        assert_eq!(found.len(), 2);
        assert!(matches!(found[0].0.0, Cow::Borrowed("b")));
        assert!(serde_json::from_str::<Members<u64, 1>>(r#"{"b":1,"b":2}"#).is_err());
    }

    #[test]
    fn ascii_is_what_python_writes() {
        let mut out = Vec::new();
        put_ascii(&mut out, "a\"\\/\n\u{1}\u{7f}é中😀");
        assert_eq!(String::from_utf8(out).unwrap(), r#""a\"\\/\n\u0001\u007f\u00e9\u4e2d\ud83d\ude00""#);
    }

    #[test]
    fn numbers_that_are_not_finite_are_read_over() {
        let text = br#"{"a":NaN,"NaN":[-Infinity,Infinity,-1],"b":"x\"NaN","c":-0.5}"#;
        let mut json = text.to_vec();
        finite(&mut json);
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value, serde_json::json!({"a": 0, "NaN": [null, null, -1], "b": "x\"NaN", "c": -0.5}));
    }
}

//! JSON as Python's json.dumps writes it, which is what chat templates were trained with.

use std::io::{self, Write};

use minijinja::value::Value;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

pub enum Spacing {
    /// One line, with a space after `,` and `:`.
    Line,
    /// One element a line, indented by so many spaces.
    Indent(usize),
}

pub fn to_python_json(value: &Value, spacing: Spacing, ascii: bool) -> io::Result<String> {
    let mut bytes = Vec::new();
    match spacing {
        Spacing::Line => value.serialize(&mut Serializer::with_formatter(&mut bytes, OneLine))?,
        Spacing::Indent(width) => {
            let indent = " ".repeat(width);
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
        }
    }
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(if ascii { escape_non_ascii(&text) } else { text })
}

struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

fn escape_non_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

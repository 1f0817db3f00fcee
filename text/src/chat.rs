//! The model's chat template (Jinja), rendered the way Hugging Face's `apply_chat_template`
//! does: blocks trimmed, Python's string methods, `raise_exception`, `strftime_now`, and the
//! special tokens as variables. Templates come from the model directory only; fuel, a
//! recursion limit and an output limit keep a faulty one from hanging the process.

use std::fmt;
use std::io;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{context, AutoEscape, Environment, ErrorKind, Output, State};
use regex::Regex;
use serde::Serialize;

use crate::error::{Code, Error, Result};
use crate::json::{to_python_json, Spacing};

const NAME: &str = "chat_template";
/// Instructions of a rendering: real templates need some hundred for each message.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 10_000;
const RECURSION_LIMIT: usize = 100;
const MAX_OUTPUT_BYTES: usize = 64 << 20;

pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    /// bos_token, eos_token, ... as the template sees them.
    specials: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'a str,
    content: &'a str,
}

impl ChatTemplate {
    pub fn new(source: String, specials: Vec<(String, String)>) -> Result<Self> {
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_recursion_limit(RECURSION_LIMIT);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_formatter(print_like_python);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", raise_exception);
        env.add_function("strftime_now", strftime_now);
        env.add_filter("tojson", tojson);
        // `generation` marks the assistant's part for training; it prints what it encloses.
        let generation = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}");
        let generation = generation.map_err(Error::internal)?;
        let known = generation.replace_all(&source, |found: &regex::Captures| {
            let tag = if found.get(2).is_some() { "endif" } else { "if true" };
            format!("{{%{} {tag} {}%}}", &found[1], &found[3])
        });
        env.add_template_owned(NAME, known.into_owned())
            .map_err(|error| Error::invalid(format!("chat template: {error}")))?;
        Ok(Self { env, source, specials })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn render(&self, messages: &[(String, String)], prompt: bool) -> Result<String> {
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL + FUEL_PER_MESSAGE * messages.len() as u64));
        let turns: Vec<Turn> =
            messages.iter().map(|(role, content)| Turn { role, content }).collect();
        let mut variables: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from_serialize(turns)),
            ("add_generation_prompt".into(), Value::from(prompt)),
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
        ];
        variables.extend(self.specials.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))));
        let context = context! { ..Value::from_iter(variables) };
        let mut out = Limited(Vec::new());
        let template = env.get_template(NAME).map_err(Error::internal)?;
        template.render_captured_to(context, &mut out).map_err(explain)?;
        String::from_utf8(out.0).map_err(Error::internal)
    }
}

/// What a template said with `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn explain(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        if let Some(Raised(message)) = this.downcast_ref() {
            return Error::invalid(format!("messages: {message}"));
        }
        cause = this.source();
    }
    Error::invalid(format!("chat template: {error}"))
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone())
        .with_source(Raised(message)))
}

fn strftime_now(format: String) -> std::result::Result<String, minijinja::Error> {
    let mut text = String::new();
    fmt::Write::write_fmt(&mut text, format_args!("{}", chrono::Local::now().format(&format)))
        .map_err(|_| {
            minijinja::Error::new(ErrorKind::InvalidOperation, "strftime_now: unknown format")
        })?;
    Ok(text)
}

fn tojson(value: Value, kwargs: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let spacing = match kwargs.get::<Option<usize>>("indent")? {
        Some(indent) => Spacing::Indent(indent.min(64)),
        None => Spacing::Line,
    };
    kwargs.assert_all_used()?;
    to_python_json(&value, spacing, ascii.unwrap_or(false)).map_err(|error| {
        minijinja::Error::new(ErrorKind::BadSerialization, "tojson").with_source(error)
    })
}

fn print_like_python(
    out: &mut Output,
    state: &State,
    value: &Value,
) -> std::result::Result<(), minijinja::Error> {
    if value.is_none() {
        out.write_str("None").map_err(minijinja::Error::from)
    } else if value.kind() == ValueKind::Bool {
        out.write_str(if value.is_true() { "True" } else { "False" })
            .map_err(minijinja::Error::from)
    } else {
        minijinja::escape_formatter(out, state, value)
    }
}

struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other("the prompt exceeds 64 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a file holds several templates, only the one called "default" is used.
pub fn default_template(field: &serde_json::Value) -> Result<Option<String>> {
    use serde_json::Value as Json;
    let text = |value: &Json| {
        value.as_str().map(str::to_string).ok_or_else(|| {
            Error::new(Code::InvalidArgument, "chat_template: neither a string nor a list of them")
        })
    };
    match field {
        Json::Null => Ok(None),
        Json::Array(list) => {
            let named = list.iter().find(|item| item["name"] == "default");
            named.map(|item| text(&item["template"])).transpose()
        }
        other => text(other).map(Some),
    }
}

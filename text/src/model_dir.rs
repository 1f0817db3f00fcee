//! Reads the text side of a Hugging Face model directory.

use std::io::ErrorKind;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

use serde_json::Value as Json;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use crate::chat::{default_template, ChatTemplate};
use crate::error::{Code, Error, Result};
use crate::text::Text;

const MAX_FILE_BYTES: u64 = 512 << 20;
const ROLES: [&str; 7] = [
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
];

pub fn load(directory: &Path) -> Result<Text> {
    let tokenizer_json = directory.join("tokenizer.json");
    let bytes = read(&tokenizer_json)?.ok_or_else(|| {
        Error::new(Code::NotFound, format!("{}: no such file", tokenizer_json.display()))
    })?;
    let mut tokenizer = in_file(&tokenizer_json, parse_tokenizer(&bytes))?;

    let config_json = directory.join("tokenizer_config.json");
    let config = match read(&config_json)? {
        Some(bytes) => in_file(&config_json, parse_object(&bytes))?,
        None => Json::Null,
    };
    let specials = in_file(&config_json, special_tokens(&config))?;
    in_file(&config_json, add_tokens(&mut tokenizer, &config, &specials))?;

    let chat = load_chat_template(directory, &config_json, &config, specials)?;
    in_file(&tokenizer_json, Text::new(tokenizer, chat))
}

fn load_chat_template(
    directory: &Path,
    config_json: &Path,
    config: &Json,
    specials: Vec<(String, String)>,
) -> Result<Option<ChatTemplate>> {
    let jinja = directory.join("chat_template.jinja");
    if let Some(bytes) = read(&jinja)? {
        let parsed = String::from_utf8(bytes)
            .map_err(|e| Error::invalid(e.to_string()))
            .and_then(|source| ChatTemplate::new(source, specials));
        return in_file(&jinja, parsed).map(Some);
    }
    let parsed = default_template(&config["chat_template"])
        .and_then(|source| source.map(|s| ChatTemplate::new(s, specials)).transpose());
    in_file(config_json, parsed)
}

fn in_file<T>(file: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|e| Error::new(e.code, format!("{}: {}", file.display(), e.message)))
}

/// None where there is no such file.
fn read(file: &Path) -> Result<Option<Vec<u8>>> {
    let bytes = std::fs::metadata(file).and_then(|meta| {
        if meta.len() > MAX_FILE_BYTES {
            return Err(std::io::Error::other("larger than 512 MiB"));
        }
        std::fs::read(file)
    });
    match bytes {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => in_file(file, Err(Error::invalid(error.to_string()))),
    }
}

fn parse_tokenizer(bytes: &[u8]) -> Result<Tokenizer> {
    // Some malformed parts make the library panic instead of returning an error.
    let parsed = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(bytes)))
        .map_err(|_| Error::invalid("not a tokenizer that the tokenizers library can read"))?;
    let mut tokenizer = parsed.map_err(|e| Error::invalid(e.to_string()))?;
    // Both are for training batches: a prompt is never cut or filled up here.
    tokenizer.with_truncation(None).map_err(Error::internal)?;
    tokenizer.with_padding(None);
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model() {
        if bpe.dropout.is_some_and(|p| p > 0.0) {
            return Err(Error::invalid("model.dropout: random tokenization is not supported"));
        }
    }
    Ok(tokenizer)
}

fn parse_object(bytes: &[u8]) -> Result<Json> {
    let json: Json = serde_json::from_slice(bytes).map_err(|e| Error::invalid(e.to_string()))?;
    if !json.is_object() {
        return Err(Error::invalid("not a JSON object"));
    }
    Ok(json)
}

/// A token is written as its text or as a whole AddedToken.
fn token_text<'a>(field: &str, value: &'a Json) -> Result<Option<&'a str>> {
    match value {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text)),
        Json::Object(token) => match token.get("content") {
            Some(Json::String(text)) => Ok(Some(text)),
            _ => Err(Error::invalid(format!("{field}.content: not a string"))),
        },
        _ => Err(Error::invalid(format!("{field}: neither a string nor an object"))),
    }
}

fn special_tokens(config: &Json) -> Result<Vec<(String, String)>> {
    let mut specials = Vec::new();
    for role in ROLES {
        if let Some(text) = token_text(role, &config[role])? {
            specials.push((role.to_string(), text.to_string()));
        }
    }
    Ok(specials)
}

/// What tokenizer_config.json adds to tokenizer.json. Ids are never invented: a token that the
/// model has no embedding for stays unknown.
fn add_tokens(
    tokenizer: &mut Tokenizer,
    config: &Json,
    specials: &[(String, String)],
) -> Result<()> {
    let mut declared = Vec::new();
    if let Some(list) = config["added_tokens_decoder"].as_object() {
        for (id, value) in list {
            let field = format!("added_tokens_decoder.{id}");
            let content = token_text(&field, value)?.unwrap_or_default();
            let id: u32 = id.parse().map_err(|_| Error::invalid(format!("{field}: not an id")))?;
            let flag = |name: &str| value[name].as_bool().unwrap_or(false);
            let token = AddedToken::from(content, flag("special"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .single_word(flag("single_word"))
                .normalized(flag("normalized"));
            declared.push((id, token));
        }
    }
    declared.sort_by_key(|(id, _)| *id);
    let mut new: Vec<AddedToken> = Vec::new();
    let is_new = |tokenizer: &Tokenizer, content: &str, new: &[AddedToken]| {
        let known = tokenizer.get_added_vocabulary().get_vocab().contains_key(content);
        !known && !new.iter().any(|t| t.content == content)
    };
    for (_, token) in &declared {
        if is_new(tokenizer, &token.content, &new) {
            new.push(token.clone());
        }
    }
    let extra = config["additional_special_tokens"].as_array().into_iter().flatten();
    let mut named: Vec<&str> = specials.iter().map(|(_, text)| text.as_str()).collect();
    for value in extra {
        named.extend(token_text("additional_special_tokens", value)?);
    }
    for text in named {
        let exists = tokenizer.token_to_id(text).is_some();
        if exists && is_new(tokenizer, text, &new) {
            new.push(AddedToken::from(text, true));
        }
    }
    tokenizer.add_tokens(&new);
    for (id, token) in declared {
        if tokenizer.token_to_id(&token.content) != Some(id) {
            return Err(Error::invalid(format!(
                "added_tokens_decoder.{id}: tokenizer.json has another id for this token"
            )));
        }
    }
    Ok(())
}

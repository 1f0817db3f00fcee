//! Ids to text, one at a time or all at once by the same code: every id has a fixed byte
//! string, the byte strings are joined, and what is no UTF-8 becomes U+FFFD.
//!
//! This covers the decoders of language models (byte-level; Metaspace or Replace with byte
//! fallback). It differs from `tokenizers` in one place on purpose: a run of byte tokens that
//! is not UTF-8 as a whole keeps its valid characters, where `tokenizers` replaces every byte
//! of the run. Otherwise no character of a run could be sent before the run has ended.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::{Decoder, Model, Tokenizer};

use crate::error::{Error, Result};

const MAX_ID: u32 = (1 << 24) - 1;

/// How a token's text becomes bytes.
#[derive(Default)]
struct Recipe {
    /// Decoders that work on one token at a time.
    maps: Vec<DecoderWrapper>,
    /// `<0x41>` stands for a byte.
    byte_fallback: bool,
    /// The text is written in the byte-level alphabet.
    byte_level: bool,
    /// A space between tokens: what `tokenizers` does without a decoder.
    spaced: bool,
    /// Up to so many of this character are removed at the start of the whole text.
    strip: Option<(char, usize)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// No token has this id.
    Hole,
    Plain,
    Special,
}

pub struct Detokenizer {
    recipe: Recipe,
    /// The bytes of id i are bytes[ends[i-1]..ends[i]].
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    /// Ids whose bytes are others at the start of the text.
    first: HashMap<u32, Vec<u8>>,
}

impl Detokenizer {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let recipe = Recipe::new(tokenizer.get_decoder())?;
        let added = tokenizer.get_added_vocabulary();
        let mut vocabulary = tokenizer.get_model().get_vocab();
        vocabulary.extend(added.get_vocab().iter().map(|(text, id)| (text.clone(), *id)));
        let last = vocabulary.values().copied().max().unwrap_or(0);
        if vocabulary.is_empty() || last > MAX_ID {
            return Err(Error::invalid(format!(
                "model.vocab: ids must lie in 0..{MAX_ID}, and one must exist"
            )));
        }
        let mut new = Self {
            recipe,
            bytes: Vec::new(),
            ends: Vec::with_capacity(last as usize + 1),
            kinds: vec![Kind::Hole; last as usize + 1],
            first: HashMap::new(),
        };
        for id in 0..=last {
            if let Some(text) = tokenizer.id_to_token(id) {
                let special = added.is_special_token(&text);
                new.kinds[id as usize] = if special { Kind::Special } else { Kind::Plain };
                let bytes = new.recipe.bytes(&text, false)?;
                let first = new.recipe.bytes(&text, true)?;
                if first != bytes {
                    new.first.insert(id, first);
                }
                new.bytes.extend(bytes);
            }
            new.ends.push(new.bytes.len());
        }
        Ok(new)
    }

    pub fn vocab_size(&self) -> usize {
        self.ends.len()
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = Stream::new(self, skip_special);
        let mut text = String::new();
        for id in ids {
            stream.push(self, *id, &mut text);
        }
        stream.flush(&mut text);
        text
    }

    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.piece(id)).into_owned()
    }

    /// Empty for an id that no token has.
    fn piece(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match self.ends.get(id) {
            Some(end) => &self.bytes[if id == 0 { 0 } else { self.ends[id - 1] }..*end],
            None => &[],
        }
    }
}

impl Recipe {
    fn new(decoder: Option<&DecoderWrapper>) -> Result<Self> {
        let mut recipe = Self { spaced: decoder.is_none(), ..Self::default() };
        let mut fused = false;
        let mut todo: Vec<&DecoderWrapper> = decoder.into_iter().collect();
        while let Some(step) = todo.pop() {
            match step {
                DecoderWrapper::Sequence(steps) => todo.extend(steps.get_decoders().iter().rev()),
                DecoderWrapper::Fuse(_) => fused = true,
                DecoderWrapper::ByteLevel(_) if !fused && !recipe.byte_fallback => {
                    recipe.byte_level = true;
                    fused = true;
                }
                DecoderWrapper::ByteFallback(_) if !fused => recipe.byte_fallback = true,
                DecoderWrapper::Replace(_) | DecoderWrapper::Metaspace(_)
                    if !fused && !recipe.byte_fallback =>
                {
                    recipe.maps.push(step.clone());
                }
                DecoderWrapper::Strip(strip)
                    if fused && strip.stop == 0 && recipe.strip.is_none() =>
                {
                    recipe.strip = Some((strip.content, strip.start));
                }
                _ => {
                    return Err(Error::invalid(
                        "decoder: only ByteLevel, and Replace or Metaspace, then ByteFallback, \
                         Fuse and a left Strip, in this order, are supported",
                    ))
                }
            }
        }
        Ok(recipe)
    }

    fn bytes(&self, text: &str, first: bool) -> Result<Vec<u8>> {
        // Metaspace treats the first token of a text apart.
        let mut tokens = if first { vec![] } else { vec![String::new()] };
        tokens.push(text.to_string());
        for map in &self.maps {
            tokens = map.decode_chain(tokens).map_err(Error::internal)?;
        }
        let text = tokens.pop().unwrap_or_default();
        if self.byte_fallback {
            if let Some(byte) = byte_token(&text) {
                return Ok(vec![byte]);
            }
        }
        if self.byte_level {
            let bytes: Option<Vec<u8>> = text.chars().map(|c| BYTES.get(&c).copied()).collect();
            return Ok(bytes.unwrap_or_else(|| text.into_bytes()));
        }
        let space = if self.spaced && !first { " " } else { "" };
        Ok(format!("{space}{text}").into_bytes())
    }
}

fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// GPT-2's alphabet: a printable byte is its own character, the others follow U+0100.
static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let mut spare = 0x100u32..;
    let character = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => spare.next().and_then(char::from_u32).expect("a valid character"),
    };
    (0..=255u8).map(character).zip(0..=255u8).collect()
});

pub struct Stream {
    skip_special: bool,
    at_start: bool,
    strip: Option<(char, usize)>,
    /// The beginning of a character: at most three bytes between calls.
    pending: Vec<u8>,
}

impl Stream {
    pub fn new(detokenizer: &Detokenizer, skip_special: bool) -> Self {
        let strip = detokenizer.recipe.strip;
        Self { skip_special, at_start: true, strip, pending: Vec::new() }
    }

    pub fn push(&mut self, detokenizer: &Detokenizer, id: u32, out: &mut String) {
        match detokenizer.kinds.get(id as usize) {
            None | Some(Kind::Hole) => return,
            Some(Kind::Special) if self.skip_special => return,
            Some(_) => {}
        }
        let piece = detokenizer.piece(id);
        let first = if self.at_start { detokenizer.first.get(&id) } else { None };
        self.pending.extend_from_slice(first.map_or(piece, Vec::as_slice));
        self.at_start = false;
        self.emit(false, out);
    }

    pub fn flush(&mut self, out: &mut String) {
        self.emit(true, out);
    }

    fn emit(&mut self, all: bool, out: &mut String) {
        let from = out.len();
        let mut taken = 0;
        for chunk in self.pending.utf8_chunks() {
            out.push_str(chunk.valid());
            taken += chunk.valid().len();
            let bad = chunk.invalid();
            // At the end, a sequence that could still become a character waits.
            let at_end = taken + bad.len() == self.pending.len();
            if bad.is_empty() || (at_end && !all && is_unfinished(bad)) {
                break;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            taken += bad.len();
        }
        self.pending.drain(..taken);
        if let Some((content, left)) = self.strip {
            let mut cut = from;
            let mut left = left;
            while left > 0 && out[cut..].starts_with(content) {
                cut += content.len_utf8();
                left -= 1;
            }
            // Anything else ends the start of the text.
            self.strip = (left > 0 && cut == out.len()).then_some((content, left));
            out.replace_range(from..cut, "");
        }
    }
}

fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}

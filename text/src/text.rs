//! One model's tokenizer with its chat template: text to ids.

use std::collections::HashSet;

use tokenizers::normalizer::Range;
use tokenizers::tokenizer::{Model, Normalizer, PreTokenizer};
use tokenizers::{
    ModelWrapper, NormalizedString, OffsetType, PreTokenizedString, Token, Tokenizer,
};

use crate::added_tokens::{is_protected, next_char, Entry, Matcher, Span, Verdict};
use crate::chat::ChatTemplate;
use crate::detokenize::Detokenizer;
use crate::error::{Code, Error, Result};
use crate::guard::Guards;

const MAX_CUTS: usize = 8;

/// How the text of a protected token reads.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    /// As the token.
    Token,
    /// As the token, unless a break says that a client had a part in it.
    TokenOutsideBreaks,
    /// As ordinary text.
    Text,
}

pub struct Text {
    tokenizer: Tokenizer,
    /// Added tokens that are looked for before, and after, normalisation.
    raw: Matcher,
    normalized: Matcher,
    protected_ids: HashSet<u32>,
    guards: Guards,
    chat: Option<ChatTemplate>,
    detokenizer: Detokenizer,
}

pub struct Message<'a> {
    pub role: &'a str,
    pub content: &'a str,
}

impl Text {
    pub fn new(tokenizer: Tokenizer, chat: Option<ChatTemplate>) -> Result<Self> {
        let mut added: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let entries = added.into_iter().map(|(id, token)| {
            let protected = is_protected(&token);
            Entry { id, token, protected }
        });
        let (late, early): (Vec<Entry>, Vec<Entry>) = entries.partition(|e| e.token.normalized);
        let all = early.iter().chain(&late);
        let protected_ids = all.filter(|e| e.protected).map(|e| e.id).collect();
        let mut forms = Vec::with_capacity(late.len());
        for entry in &late {
            let mut form = NormalizedString::from(entry.token.content.as_str());
            if let Some(normalizer) = tokenizer.get_normalizer() {
                normalizer.normalize(&mut form).map_err(Error::internal)?;
            }
            forms.push(form.get().to_string());
        }
        let raw = Matcher::new(early.iter().map(|e| e.token.content.clone()).collect(), early)?;
        let normalized = Matcher::new(forms, late)?;
        let guards = Guards::new(&raw, &normalized, tokenizer.get_normalizer())?;
        let detokenizer = Detokenizer::new(&tokenizer)?;
        Ok(Self { tokenizer, raw, normalized, protected_ids, guards, chat, detokenizer })
    }

    pub fn detokenizer(&self) -> &Detokenizer {
        &self.detokenizer
    }

    pub fn has_chat_template(&self) -> bool {
        self.chat.is_some()
    }

    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let reading = if parse_special { Reading::Token } else { Reading::Text };
        self.encode_reading(text, &[], reading, add_special)
    }

    pub fn encode_chat(&self, messages: &[Message], generation_prompt: bool) -> Result<Vec<u32>> {
        let (text, breaks) = self.render(messages, generation_prompt)?;
        self.encode_reading(&text, &breaks, Reading::TokenOutsideBreaks, false)
    }

    pub fn render_chat(&self, messages: &[Message], generation_prompt: bool) -> Result<String> {
        Ok(self.render(messages, generation_prompt)?.0)
    }

    fn render(&self, messages: &[Message], prompt: bool) -> Result<(String, Vec<usize>)> {
        let chat = self.chat.as_ref().ok_or_else(|| {
            Error::new(Code::FailedPrecondition, "the model has no chat template")
        })?;
        let written = messages.iter().flat_map(|m| [m.role, m.content]);
        let guard = Guards::choose(written.chain([chat.source()]))?;
        let normalizer = self.tokenizer.get_normalizer();
        let guarded: Vec<(String, String)> = messages
            .iter()
            .map(|m| {
                let role = self.guards.guard_role(m.role, guard, normalizer);
                (role, self.guards.guard(m.content, guard, normalizer))
            })
            .collect();
        let rendered = chat.render(&guarded, prompt).map_err(|mut error| {
            error.message = Guards::strip(&error.message, guard).0;
            error
        })?;
        Ok(Guards::strip(&rendered, guard))
    }

    /// The pipeline of `Tokenizer::encode`, with our own search for added tokens.
    fn encode_reading(
        &self,
        text: &str,
        breaks: &[usize],
        reading: Reading,
        add_special: bool,
    ) -> Result<Vec<u32>> {
        let mut split = PreTokenizedString::from(text);
        split
            .split(|_, piece| {
                let spans = self.raw.find(piece.get(), breaks, |entry, range| {
                    // Only a token of one character can lie between two breaks unseen.
                    let single = next_char(text, range.start) == range.end;
                    let enclosed = single
                        && breaks.binary_search(&range.start).is_ok()
                        && breaks.binary_search(&range.end).is_ok();
                    judge(entry, reading, enclosed)
                });
                slices(&piece, spans)
            })
            .map_err(Error::internal)?;
        split
            .split(|_, mut piece| {
                if let Some(normalizer) = self.tokenizer.get_normalizer() {
                    normalizer.normalize(&mut piece)?;
                }
                let origin = piece.offsets_original().0;
                let spans = self.normalized.find(piece.get(), &[], |entry, range| {
                    let from = piece.convert_offsets(Range::Normalized(range));
                    let broken = from.is_none_or(|from| {
                        let first = breaks.partition_point(|b| *b <= from.start + origin);
                        breaks.get(first).is_some_and(|b| *b < from.end + origin)
                    });
                    judge(entry, reading, broken)
                });
                slices(&piece, spans)
            })
            .map_err(Error::internal)?;
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).map_err(Error::internal)?;
        }
        split
            .tokenize(|piece| match reading {
                Reading::Token => self.tokenizer.get_model().tokenize(piece.get()),
                _ => self.tokenize_as_text(piece.get(), MAX_CUTS),
            })
            .map_err(Error::internal)?;
        let encoding = split.into_encoding(None, 0, OffsetType::None).map_err(Error::internal)?;
        let encoding = self.tokenizer.post_process(encoding, None, add_special);
        Ok(encoding.map_err(Error::internal)?.get_ids().to_vec())
    }

    /// Some models hold their special tokens among the ordinary pieces and can arrive at one
    /// from plain text. Such a piece is cut open after its first character; where that keeps
    /// making new ones, every character stands alone.
    fn tokenize_as_text(&self, word: &str, cuts_left: usize) -> tokenizers::Result<Vec<Token>> {
        let model: &ModelWrapper = self.tokenizer.get_model();
        let tokens = model.tokenize(word)?;
        // An unknown character is the "unknown" token, but not its text.
        let forged = |token: &Token| {
            self.protected_ids.contains(&token.id)
                && word.get(token.offsets.0..token.offsets.1) == Some(token.value.as_str())
                && token.value.chars().nth(1).is_some()
        };
        let mut cuts = tokens.iter().filter(|t| forged(t)).map(|t| next_char(word, t.offsets.0));
        let Some(first) = cuts.next() else {
            return Ok(tokens);
        };
        let cuts: Vec<usize> = match cuts_left {
            0 => word.char_indices().map(|(at, _)| at).skip(1).collect(),
            _ => std::iter::once(first).chain(cuts).collect(),
        };
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts.into_iter().chain([word.len()]) {
            pieces.extend(self.tokenize_as_text(&word[start..cut], cuts_left.saturating_sub(1))?);
            start = cut;
        }
        Ok(pieces)
    }
}

fn judge(entry: &Entry, reading: Reading, broken: bool) -> Verdict {
    match reading {
        _ if !entry.protected => Verdict::Token,
        Reading::Text => Verdict::Text,
        Reading::TokenOutsideBreaks if broken => Verdict::Retry,
        _ => Verdict::Token,
    }
}

type Slice = (NormalizedString, Option<Vec<Token>>);

fn slices(piece: &NormalizedString, spans: Vec<Span>) -> tokenizers::Result<Vec<Slice>> {
    let cut = |span: Span| {
        let slice = piece.slice(Range::Normalized(span.range)).ok_or("a split inside a character")?;
        let tokens = span.id.map(|id| {
            let text = slice.get().to_owned();
            let end = text.len();
            vec![Token::new(id, text, (0, end))]
        });
        Ok((slice, tokens))
    };
    spans.into_iter().map(cut).collect()
}

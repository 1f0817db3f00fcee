//! Finding the added tokens (`<|im_end|>`, `<s>`, ...) in a text, exactly as `tokenizers`
//! does it (leftmost, longest, then the token's strip and single-word rules), with two things
//! more: a match never crosses a *break*, and the caller may turn a match down.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use regex::Regex;
use tokenizers::AddedToken;

use crate::error::{Error, Result};

pub struct Entry {
    pub id: u32,
    pub token: AddedToken,
    /// Structure of the model's prompts: what a client wrote must not become this token.
    pub protected: bool,
}

/// Several published tokenizers do not flag their turn markers as special; their form gives
/// them away.
pub fn is_protected(token: &AddedToken) -> bool {
    let text = token.content.as_str();
    token.special
        || ["<|", "<｜"].iter().any(|open| text.starts_with(open))
            && ["|>", "｜>"].iter().any(|close| text.ends_with(close))
}

/// What to do with a match.
pub enum Verdict {
    Token,
    /// The whole match is ordinary text.
    Text,
    /// Not a match; another may begin inside it.
    Retry,
}

pub struct Matcher {
    automaton: AhoCorasick,
    entries: Vec<Entry>,
}

pub struct Span {
    pub id: Option<u32>,
    pub range: Range<usize>,
}

impl Matcher {
    /// `patterns[i]` is what `entries[i]` looks like in the texts to be searched.
    pub fn new(patterns: Vec<String>, entries: Vec<Entry>) -> Result<Self> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns)
            .map_err(Error::internal)?;
        Ok(Self { automaton, entries })
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Spans that cover `text`. `breaks` are ascending byte positions.
    pub fn find(
        &self,
        text: &str,
        breaks: &[usize],
        verdict: impl Fn(&Entry, Range<usize>) -> Verdict,
    ) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut done = 0;
        let mut piece_start = 0;
        for piece_end in breaks.iter().copied().chain([text.len()]) {
            let mut at = piece_start;
            while let Some(found) = self.automaton.find(Input::new(text).range(at..piece_end)) {
                at = found.end();
                let entry = &self.entries[found.pattern()];
                match verdict(entry, found.range()) {
                    Verdict::Token => {}
                    Verdict::Text => continue,
                    Verdict::Retry => {
                        at = next_char(text, found.start());
                        continue;
                    }
                }
                if entry.token.single_word && !stands_alone(text, found.range()) {
                    continue;
                }
                let mut range = found.range();
                if entry.token.lstrip {
                    range.start = text[..range.start].trim_end().len().max(done);
                }
                if entry.token.rstrip {
                    let rest = &text[range.end..];
                    range.end += rest.len() - rest.trim_start().len();
                }
                if done < range.start {
                    spans.push(Span { id: None, range: done..range.start });
                }
                done = range.end;
                spans.push(Span { id: Some(entry.id), range });
            }
            piece_start = piece_end;
        }
        if done < text.len() {
            spans.push(Span { id: None, range: done..text.len() });
        }
        spans
    }
}

pub fn next_char(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}

fn stands_alone(text: &str, range: Range<usize>) -> bool {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w").expect("a literal"));
    let is_word = |c: Option<char>| c.is_some_and(|c| WORD.is_match(c.encode_utf8(&mut [0; 4])));
    !is_word(text[..range.start].chars().next_back()) && !is_word(text[range.end..].chars().next())
}

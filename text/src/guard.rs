//! Keeps what a client wrote apart from what the chat template wrote.
//!
//! A *guard* is a Unicode noncharacter that occurs in no message. Before rendering it is put
//! into the client's strings wherever their text could become (part of) a protected token;
//! after rendering it is taken out again, and its positions are the breaks that no added
//! token may cross. Text without any such place is rendered untouched, so templates that
//! inspect roles and contents work as they were written.
//!
//! This holds for templates that print contents whole or stripped at their ends. One that cut
//! contents in the middle *and* printed two cuts with nothing between them could still join
//! halves of a token; published templates put text or tokens around what they cut.

use std::collections::HashSet;

use aho_corasick::AhoCorasick;
use tokenizers::normalizer::Range;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use crate::added_tokens::{next_char, Matcher};
use crate::error::{Error, Result};

/// Templates build tokens from these (`'<|' + role + '|>'`), and mean it.
const ROLES: [&str; 9] = [
    "system", "user", "assistant", "tool", "function", "developer", "model", "ipython",
    "observation",
];

pub struct Guards {
    texts: Vec<String>,
    automaton: AhoCorasick,
    /// Proper prefixes and suffixes of `texts`.
    heads: HashSet<String>,
    tails: HashSet<String>,
    longest_bytes: usize,
    /// Some protected token is looked for after normalisation.
    normalized: bool,
}

impl Guards {
    pub fn new(
        raw: &Matcher,
        normalized: &Matcher,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self> {
        let protected = |m: &Matcher| -> Vec<String> {
            let entries = m.entries().iter().filter(|e| e.protected);
            entries.map(|e| e.token.content.clone()).collect()
        };
        let mut texts = protected(raw);
        let late = protected(normalized);
        for text in &late {
            let mut form = NormalizedString::from(text.as_str());
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut form).map_err(Error::internal)?;
            }
            // A prepended word mark is not part of what the client must write.
            texts.push(form.get().trim_start_matches('▁').to_string());
        }
        let has_late = !late.is_empty() && normalizer.is_some();
        texts.extend(late);
        texts.retain(|text| !text.is_empty());
        let (mut heads, mut tails) = (HashSet::new(), HashSet::new());
        for text in &texts {
            for (at, _) in text.char_indices().skip(1) {
                heads.insert(text[..at].to_string());
                tails.insert(text[at..].to_string());
            }
        }
        Ok(Self {
            automaton: AhoCorasick::new(&texts).map_err(Error::internal)?,
            longest_bytes: texts.iter().map(String::len).max().unwrap_or(0),
            texts,
            heads,
            tails,
            normalized: has_late,
        })
    }

    /// A noncharacter that is in none of `texts`.
    pub fn choose<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Result<char> {
        ('\u{FDD0}'..='\u{FDEF}')
            .find(|&guard| !texts.clone().any(|text| text.contains(guard)))
            .ok_or_else(|| {
                Error::invalid("messages: use every noncharacter from U+FDD0 to U+FDEF")
            })
    }

    pub fn guard_role(&self, role: &str, guard: char, n: Option<&NormalizerWrapper>) -> String {
        if ROLES.contains(&role) {
            return role.to_string();
        }
        self.guard(role, guard, n)
    }

    pub fn guard(&self, text: &str, guard: char, n: Option<&NormalizerWrapper>) -> String {
        let mut places = Vec::new();
        // Every occurrence, overlapping ones too: a break after its first character. A token
        // of one character is enclosed instead (see `Text::verdict`).
        self.cut_occurrences(text, |start, end| {
            let inner = next_char(text, start);
            places.push(inner);
            if inner >= end {
                places.push(start);
            }
        });
        if self.normalized {
            self.cut_normalized(text, n, &mut places);
        }
        // The ends: a token put together with the neighbours. Templates strip contents, so
        // the ends are those of the stripped text.
        let core = text.trim();
        let start = text.len() - text.trim_start().len();
        let inside = !core.is_empty()
            && core.len() < self.longest_bytes
            && self.texts.iter().any(|t| t.len() > core.len() && t.contains(core));
        if inside || self.ends(core).any(|tail| self.heads.contains(tail)) {
            places.push(start + core.len());
        }
        if inside || self.starts(core).any(|head| self.tails.contains(head)) {
            places.push(start);
        }
        places.sort_unstable();
        places.dedup();
        let mut guarded = String::with_capacity(text.len() + 3 * places.len());
        let mut done = 0;
        for place in places {
            guarded.push_str(&text[done..place]);
            guarded.push(guard);
            done = place;
        }
        guarded.push_str(&text[done..]);
        guarded
    }

    /// The text without its guards, and where they were.
    pub fn strip(rendered: &str, guard: char) -> (String, Vec<usize>) {
        let mut text = String::with_capacity(rendered.len());
        let mut breaks = Vec::new();
        for (index, piece) in rendered.split(guard).enumerate() {
            if index > 0 {
                breaks.push(text.len());
            }
            text.push_str(piece);
        }
        breaks.dedup();
        (text, breaks)
    }

    fn cut_occurrences(&self, text: &str, mut cut: impl FnMut(usize, usize)) {
        for found in self.automaton.find_overlapping_iter(text) {
            cut(found.start(), found.end());
        }
    }

    /// Occurrences that only normalisation brings about, mapped back onto `text`.
    fn cut_normalized(&self, text: &str, n: Option<&NormalizerWrapper>, places: &mut Vec<usize>) {
        let mut form = NormalizedString::from(text);
        if n.is_none_or(|n| n.normalize(&mut form).is_err()) {
            return;
        }
        let mut cuts = Vec::new();
        self.cut_occurrences(form.get(), |start, end| cuts.push((start, end)));
        for (start, end) in cuts {
            if let Some(range) = form.convert_offsets(Range::Normalized(start..end)) {
                if range.start < range.end {
                    places.push(next_char(text, range.start));
                }
            }
        }
    }

    fn ends<'a>(&self, core: &'a str) -> impl Iterator<Item = &'a str> {
        let longest = self.longest_bytes;
        core.char_indices().rev().map(|(at, _)| &core[at..]).take_while(move |s| s.len() < longest)
    }

    fn starts<'a>(&self, core: &'a str) -> impl Iterator<Item = &'a str> {
        let longest = self.longest_bytes;
        core.char_indices()
            .map(|(at, c)| &core[..at + c.len_utf8()])
            .take_while(move |s| s.len() < longest)
    }
}

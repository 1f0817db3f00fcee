//! Tokenizer and chat template of one model behind a C ABI; skim_text.h is its contract.

mod added_tokens;
mod chat;
mod detokenize;
mod error;
mod ffi;
mod guard;
mod json;
mod model_dir;
mod text;

//! What crosses the C ABI when a call fails.

/// The numbers are absl::StatusCode's, so that the wrapper only casts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    FailedPrecondition = 9,
    Internal = 13,
}

#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// For what the libraries report on well-formed input.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::new(Code::Internal, format!("text library: {cause}"))
    }
}

pub type Result<T> = std::result::Result<T, Error>;

//! The C ABI of skim_text.h. Every entry catches panics and checks that text is UTF-8; the
//! pointers are the caller's promise.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once};

use crate::detokenize::Stream;
use crate::error::{Error, Result};
use crate::model_dir;
use crate::text::{Message, Text};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    ptr: *const u8,
    len: usize,
}

#[repr(C)]
pub struct RawMessage {
    role: Slice,
    content: Slice,
}

/// Owned by the caller until it is given back to the matching free function.
#[repr(C)]
pub struct Array<T> {
    ptr: *mut T,
    len: usize,
}

impl<T> Array<T> {
    fn new(values: Vec<T>) -> Self {
        let len = values.len();
        Self { ptr: Box::into_raw(values.into_boxed_slice()).cast(), len }
    }

    /// # Safety
    /// `self` came from `new` and is not used again.
    unsafe fn free(self) {
        if !self.ptr.is_null() {
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.ptr, self.len)));
        }
    }
}

type Bytes = Array<u8>;
type Ids = Array<i32>;

pub struct StreamHandle {
    text: Arc<Text>,
    stream: Stream,
}

/// # Safety
/// `ptr` points to `len` values, or `len` is 0.
unsafe fn view<'a, T>(ptr: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    std::slice::from_raw_parts(ptr, len)
}

/// # Safety
/// As for `view`.
unsafe fn utf8<'a>(field: impl FnOnce() -> String, slice: Slice) -> Result<&'a str> {
    std::str::from_utf8(view(slice.ptr, slice.len)).map_err(|error| {
        Error::invalid(format!("{}: invalid UTF-8 at byte {}", field(), error.valid_up_to()))
    })
}

/// # Safety
/// As for `view`.
unsafe fn messages<'a>(ptr: *const RawMessage, len: usize) -> Result<Vec<Message<'a>>> {
    let read = |(i, raw): (usize, &RawMessage)| {
        Ok(Message {
            role: utf8(|| format!("messages[{i}].role"), raw.role)?,
            content: utf8(|| format!("messages[{i}].content"), raw.content)?,
        })
    };
    view(ptr, len).iter().enumerate().map(read).collect()
}

fn signed(ids: Vec<u32>) -> Vec<i32> {
    ids.into_iter().map(|id| id as i32).collect()
}

/// Runs `call`; writes its value to `out` and returns 0, or its message to `error` and returns
/// its code.
unsafe fn guarded<T>(out: *mut T, error: *mut Bytes, call: impl FnOnce() -> Result<T>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Error::internal("it panicked on this input")));
    match result {
        Ok(value) => {
            out.write(value);
            0
        }
        Err(failure) => {
            error.write(Array::new(failure.message.into_bytes()));
            failure.code as i32
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_load(
    directory: Slice,
    out: *mut *const Text,
    error: *mut Bytes,
) -> i32 {
    // The default hook prints the message, which may quote a user's text.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    guarded(out, error, || {
        let directory = utf8(|| "model directory".to_string(), directory)?;
        Ok(Arc::into_raw(Arc::new(model_dir::load(Path::new(directory))?)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_free(text: *const Text) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(Arc::from_raw(text))));
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_encode(
    text: *const Text,
    input: Slice,
    add_special: bool,
    parse_special: bool,
    out: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        let input = utf8(|| "text".to_string(), input)?;
        Ok(Array::new(signed((*text).encode(input, add_special, parse_special)?)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_decode(
    text: *const Text,
    ids: *const i32,
    count: usize,
    skip_special: bool,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        let detokenizer = (*text).detokenizer();
        let size = detokenizer.vocab_size();
        let checked = view(ids, count).iter().enumerate().map(|(i, id)| {
            let inside = u32::try_from(*id).ok().filter(|id| (*id as usize) < size);
            inside.ok_or_else(|| Error::invalid(format!("ids[{i}]: {id} is not in [0, {size})")))
        });
        let ids = checked.collect::<Result<Vec<u32>>>()?;
        Ok(Array::new(detokenizer.decode(&ids, skip_special).into_bytes()))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_token_text(
    text: *const Text,
    id: i32,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        Ok(Array::new((*text).detokenizer().token_text(id).into_bytes()))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_vocab_size(text: *const Text) -> i32 {
    (*text).detokenizer().vocab_size() as i32
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_has_chat_template(text: *const Text) -> bool {
    (*text).has_chat_template()
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_encode_chat(
    text: *const Text,
    turns: *const RawMessage,
    count: usize,
    add_generation_prompt: bool,
    out: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        let turns = messages(turns, count)?;
        Ok(Array::new(signed((*text).encode_chat(&turns, add_generation_prompt)?)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_render_chat(
    text: *const Text,
    turns: *const RawMessage,
    count: usize,
    add_generation_prompt: bool,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        let turns = messages(turns, count)?;
        Ok(Array::new((*text).render_chat(&turns, add_generation_prompt)?.into_bytes()))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_stream_new(
    text: *const Text,
    skip_special: bool,
    out: *mut *mut StreamHandle,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        Arc::increment_strong_count(text);
        let text = Arc::from_raw(text);
        let stream = Stream::new(text.detokenizer(), skip_special);
        Ok(Box::into_raw(Box::new(StreamHandle { text, stream })))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_stream_free(handle: *mut StreamHandle) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(handle))));
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_stream_push(
    handle: *mut StreamHandle,
    id: i32,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        let StreamHandle { text, stream } = &mut *handle;
        let mut piece = String::new();
        stream.push(text.detokenizer(), u32::try_from(id).unwrap_or(u32::MAX), &mut piece);
        Ok(Array::new(piece.into_bytes()))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_stream_flush(
    handle: *mut StreamHandle,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guarded(out, error, || {
        let mut piece = String::new();
        (*handle).stream.flush(&mut piece);
        Ok(Array::new(piece.into_bytes()))
    })
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_bytes_free(bytes: Bytes) {
    let _ = catch_unwind(AssertUnwindSafe(|| bytes.free()));
}

#[no_mangle]
pub unsafe extern "C" fn skim_text_ids_free(ids: Ids) {
    let _ = catch_unwind(AssertUnwindSafe(|| ids.free()));
}

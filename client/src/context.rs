//! What a reader saw, handed back with the write that replaces it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// Covers the values that were read; a write with it replaces exactly those. Opaque, and good only
/// for the key that it was read from. Its text form is hexadecimal; that of [`Context::none`] is
/// empty.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Context(pub(crate) Bytes);

impl Context {
    /// The context of a writer that has read nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether nothing was read.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, as the cluster made them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A context out of bytes that [`Context::as_bytes`] gave. The cluster refuses others.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({self})")
    }
}

/// A text that is not a context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a context is an even number of hexadecimal digits, as a read showed it")]
pub struct ParseContextError;

impl FromStr for Context {
    type Err = ParseContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| (byte as char).to_digit(16).ok_or(ParseContextError);
        if !text.len().is_multiple_of(2) {
            return Err(ParseContextError);
        }
        text.as_bytes()
            .chunks_exact(2)
            .map(|pair| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
            .collect::<Result<Vec<u8>, _>>()
            .map(Self::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_reads_back_as_it_was_written() {
        let context = Context::from_bytes(vec![0, 0x7f, 0xff]);
        assert_eq!(context.to_string(), "007fff");
        assert_eq!("007FFF".parse(), Ok(context));
        assert_eq!("".parse(), Ok(Context::none()));
        for wrong in ["0", "0g", "+1", "ä0"] {
            assert_eq!(wrong.parse::<Context>(), Err(ParseContextError), "{wrong:?}");
        }
    }
}

//! What a reader saw, handed back with the write that replaces it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// Covers the values that were read; a write with it replaces exactly those. Opaque, and good only
/// for the key that it was read from. Its text form is hexadecimal; that of [`Context::none`] is
/// empty.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Context;
///
/// carts.replace("alice", "3 apples").await?;
/// // A web page may carry it, as text, until the user has chosen.
/// let text = carts.get("alice").await?.context.to_string();
/// carts.put("alice", "2 apples", &text.parse::<Context>()?).await?;
/// assert_eq!(carts.get("alice").await?.single().unwrap().bytes, "2 apples");
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Context(pub(crate) Bytes);

impl Context {
    /// The context of a writer that has read nothing.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Context;
    ///
    /// carts.put("alice", "3 apples", &Context::none()).await?;
    /// carts.put("alice", "3 pears", &Context::none()).await?;
    /// assert_eq!(carts.get("alice").await?.siblings.len(), 2);
    /// # Ok(()) });
    /// ```
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether nothing was read.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// assert!(carts.get("alice").await?.context.is_none());
    /// let written = carts.replace("alice", "3 apples").await?;
    /// assert!(!written.context.is_none());
    /// # Ok(()) });
    /// ```
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, as the cluster made them.
    ///
    /// ```
    /// use quoit_client::Context;
    ///
    /// let context: Context = "007fff".parse()?;
    /// assert_eq!(context.as_bytes(), [0x00, 0x7f, 0xff]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A context out of bytes that [`Context::as_bytes`] gave. The cluster refuses others.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Context;
    ///
    /// let written = carts.replace("alice", "3 apples").await?;
    /// let kept = written.context.as_bytes().to_vec();
    /// assert_eq!(Context::from_bytes(kept), written.context);
    /// # Ok(()) });
    /// ```
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
///
/// ```
/// use quoit_client::{Context, ParseContextError};
///
/// assert_eq!("a cart".parse::<Context>(), Err(ParseContextError));
/// ```
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

//! Data goes to standard output, words for people to standard error.

use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::failure::CommandError;

/// Where a command's results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON for programs, or text for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One JSON document on a line.
    pub fn json(self, value: &Value) -> Result<(), CommandError> {
        self.text(&format!("{value}\n"))
    }

    /// Text as it is.
    pub fn text(self, text: &str) -> Result<(), CommandError> {
        self.bytes(text.as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CommandError::output)
    }

    /// A value as it is; a line end follows where a person looks on.
    pub(crate) fn value(self, value: &[u8]) -> Result<(), CommandError> {
        self.bytes(value)?;
        if io::stdout().is_terminal() && !value.ends_with(b"\n") {
            self.bytes(b"\n")
        } else {
            Ok(())
        }
    }
}

/// Words for people.
pub fn note(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Puts bytes into a JSON object: text under `name`, anything else in base64 under `name_base64`.
pub fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_go_as_base64() {
        let mut object = Map::new();
        put_bytes(&mut object, "value", "é".as_bytes());
        put_bytes(&mut object, "key", b"\xff\x00");
        assert_eq!(Value::Object(object).to_string(), r#"{"key_base64":"/wA=","value":"é"}"#);
    }
}

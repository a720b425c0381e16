//! Finds a record's keys: columns of CSV, or fields of a JSON object.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::str::FromStr;

use serde_json::value::RawValue;

/// Which column or field holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// The column of that number, from 1.
    Number(usize),
    /// The column or field of that name.
    Name(String),
}

impl FromStr for Column {
    type Err = Infallible;

    /// All digits are a number, anything else a name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Self::Number(number),
            _ => Self::Name(text.to_owned()),
        })
    }
}

/// A delimiter of columns: one ASCII character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiter(pub u8);

/// A text that is not a delimiter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot delimit columns: give one ASCII character such as ',' or ';', or 'tab'")]
pub struct ParseDelimiterError(String);

impl FromStr for Delimiter {
    type Err = ParseDelimiterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            b"tab" | b"\\t" => Ok(Self(b'\t')),
            &[byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(Self(byte)),
            _ => Err(ParseDelimiterError(text.chars().take(16).collect())),
        }
    }
}

/// Columns that a file does not have. Nothing was read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// Columns are counted from 1.
    #[error("columns are counted from 1; there is no column 0")]
    Zero,
    /// A name needs a header line.
    #[error("{0:?} is no column number; a name needs a header line in the file and --header")]
    NameWithoutHeader(String),
    /// The header has no such name.
    #[error("the header has no column {name:?}; it has {known}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
}

/// Why a record cannot be stored. The line was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// There is nothing on the line.
    #[error("the line is empty")]
    Empty,
    /// The record ends before the wanted column.
    #[error("it has {found} columns, column {wanted} is needed")]
    TooFewColumns {
        /// The columns of the record.
        found: usize,
        /// The column that holds a key.
        wanted: usize,
    },
    /// A key must not be empty.
    #[error("its key is empty")]
    EmptyKey,
    /// The keys are over the limit.
    #[error("its key has {bytes} bytes, {limit} are allowed")]
    KeyTooLong {
        /// Partition and sort key together.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The line is not JSON.
    #[error("it is not a JSON object: {0}")]
    Json(String),
    /// The object lacks a field.
    #[error("it has no field {0:?}")]
    MissingField(String),
    /// A key must be a string or a number.
    #[error("its field {0:?} is neither a string nor a number")]
    FieldKind(String),
    /// A quote opens and does not close.
    #[error(
        "a quote opens and does not close within {limit} bytes; without quoting use --no-quote"
    )]
    OpenQuote {
        /// How far the closing quote was looked for.
        limit: usize,
    },
    /// The record is over the limit.
    #[error("it has more than {limit} bytes")]
    TooLong {
        /// What is allowed.
        limit: usize,
    },
    /// The cluster refuses the item for ever.
    #[error("the cluster refuses it: {0}")]
    Refused(String),
}

/// Where in a CSV record the next byte stands (RFC 4180, and like the `csv` crate where that is
/// silent: a quote in the middle of a field is an ordinary byte).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuoteState {
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote inside quotes: the field's end, or the first half of a doubled quote.
    QuoteInQuoted,
}

impl QuoteState {
    /// The state behind `byte`.
    pub(crate) fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Quoted, b'"') => Self::QuoteInQuoted,
            (Self::Quoted, _) | (Self::FieldStart | Self::QuoteInQuoted, b'"') => Self::Quoted,
            (Self::FieldStart | Self::Plain | Self::QuoteInQuoted, byte) if byte == delimiter => {
                Self::FieldStart
            }
            (Self::FieldStart | Self::Plain | Self::QuoteInQuoted, _) => Self::Plain,
        }
    }
}

/// The fields of a CSV record, without quotes. A record has at least one field.
pub(crate) fn fields(
    record: &[u8],
    delimiter: u8,
    quoting: bool,
) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut rest = Some(record);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let mut state = QuoteState::FieldStart;
        let end = bytes.iter().position(|&byte| {
            if quoting {
                let before = state;
                state = state.after(byte, delimiter);
                byte == delimiter && before != QuoteState::Quoted
            } else {
                byte == delimiter
            }
        });
        rest = end.map(|at| &bytes[at + 1..]);
        let field = &bytes[..end.unwrap_or(bytes.len())];
        let is_quoted = quoting && field.first() == Some(&b'"');
        Some(if is_quoted { Cow::Owned(unquote(field, delimiter)) } else { Cow::Borrowed(field) })
    })
}

/// The bytes of a field that begins with a quote.
fn unquote(field: &[u8], delimiter: u8) -> Vec<u8> {
    let mut state = QuoteState::FieldStart;
    let mut bytes = Vec::with_capacity(field.len());
    for &byte in field {
        let before = state;
        state = state.after(byte, delimiter);
        let is_mark = byte == b'"'
            && matches!(
                (before, state),
                (QuoteState::FieldStart, _) | (QuoteState::Quoted, QuoteState::QuoteInQuoted)
            );
        if !is_mark {
            bytes.push(byte);
        }
    }
    bytes
}

/// A partition key and a sort key, the latter often empty.
pub(crate) type KeyPair = (Vec<u8>, Vec<u8>);

/// Takes the keys out of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyFinder {
    /// Columns of CSV, counted from 0.
    Csv {
        /// Between two columns.
        delimiter: u8,
        /// Whether quotes have a meaning.
        quoting: bool,
        /// The partition key's column.
        key: usize,
        /// The sort key's.
        sort: Option<usize>,
    },
    /// Fields of JSON objects.
    Json {
        /// The partition key's field.
        key: String,
        /// The sort key's.
        sort: Option<String>,
    },
}

impl KeyFinder {
    /// A finder of CSV columns; names are looked up in `header`, the file's first record.
    pub(crate) fn csv(
        delimiter: u8,
        quoting: bool,
        key: &Column,
        sort: Option<&Column>,
        header: Option<&[u8]>,
    ) -> Result<Self, ColumnError> {
        let find = |column: &Column| match column {
            Column::Number(0) => Err(ColumnError::Zero),
            Column::Number(number) => Ok(number - 1),
            Column::Name(name) => {
                let Some(header) = header else {
                    return Err(ColumnError::NameWithoutHeader(name.clone()));
                };
                let header = without_line_end(without_mark(header));
                let names: Vec<_> = fields(header, delimiter, quoting).collect();
                names.iter().position(|field| **field == *name.as_bytes()).ok_or_else(|| {
                    let known = names.iter().map(|name| String::from_utf8_lossy(name));
                    ColumnError::UnknownName {
                        name: name.clone(),
                        known: known.collect::<Vec<_>>().join(", "),
                    }
                })
            }
        };
        Ok(Self::Csv { delimiter, quoting, key: find(key)?, sort: sort.map(find).transpose()? })
    }

    /// A finder of JSON fields. A number is the name of a field, too.
    pub(crate) fn json(key: &Column, sort: Option<&Column>) -> Self {
        let name = |column: &Column| match column {
            Column::Number(number) => number.to_string(),
            Column::Name(name) => name.clone(),
        };
        Self::Json { key: name(key), sort: sort.map(name) }
    }

    /// The keys of a record.
    pub(crate) fn keys(&self, record: &[u8], key_bytes_max: usize) -> Result<KeyPair, Malformed> {
        let record = without_line_end(without_mark(record));
        if record.is_empty() {
            return Err(Malformed::Empty);
        }
        let (partition, sort) = match self {
            Self::Csv { delimiter, quoting, key, sort } => {
                csv_keys(record, *delimiter, *quoting, *key, *sort)?
            }
            Self::Json { key, sort } => json_keys(record, key, sort.as_deref())?,
        };
        if partition.is_empty() {
            return Err(Malformed::EmptyKey);
        }
        let bytes = partition.len() + sort.len();
        if bytes > key_bytes_max {
            return Err(Malformed::KeyTooLong { bytes, limit: key_bytes_max });
        }
        Ok((partition, sort))
    }
}

fn csv_keys(
    record: &[u8],
    delimiter: u8,
    quoting: bool,
    key: usize,
    sort: Option<usize>,
) -> Result<KeyPair, Malformed> {
    let last = key.max(sort.unwrap_or(0));
    let (mut partition, mut sort_key, mut found) = (Vec::new(), Vec::new(), 0);
    for (at, field) in fields(record, delimiter, quoting).take(last + 1).enumerate() {
        found = at + 1;
        if at == key {
            partition = field.to_vec();
        }
        if Some(at) == sort {
            sort_key = field.into_owned();
        }
    }
    if found <= last {
        return Err(Malformed::TooFewColumns { found, wanted: last + 1 });
    }
    Ok((partition, sort_key))
}

fn json_keys(record: &[u8], key: &str, sort: Option<&str>) -> Result<KeyPair, Malformed> {
    let object: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(record).map_err(|error| Malformed::Json(error.to_string()))?;
    let find = |name: &str| {
        let raw = object.get(name).ok_or_else(|| Malformed::MissingField(name.to_owned()))?.get();
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str::<String>(raw)
                .map(String::into_bytes)
                .map_err(|error| Malformed::Json(error.to_string())),
            // A number is its own text: 1.0 and 1 are two keys, and no digit is lost.
            Some(b'-' | b'0'..=b'9') => Ok(raw.as_bytes().to_vec()),
            _ => Err(Malformed::FieldKind(name.to_owned())),
        }
    };
    Ok((find(key)?, sort.map(find).transpose()?.unwrap_or_default()))
}

/// A record without the carriage return of a line that ends in CR LF.
fn without_line_end(record: &[u8]) -> &[u8] {
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// A record without the byte order mark that some programs put at a file's start.
fn without_mark(record: &[u8]) -> &[u8] {
    record.strip_prefix("\u{feff}".as_bytes()).unwrap_or(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 16;

    fn csv(key: &str, sort: Option<&str>, header: Option<&str>) -> Result<KeyFinder, ColumnError> {
        let column = |text: &str| text.parse::<Column>().expect("infallible");
        let sort = sort.map(column);
        KeyFinder::csv(b';', true, &column(key), sort.as_ref(), header.map(str::as_bytes))
    }

    fn keys(finder: &KeyFinder, record: &str) -> Result<(String, String), Malformed> {
        let (partition, sort) = finder.keys(record.as_bytes(), LIMIT)?;
        Ok((String::from_utf8(partition).expect("text"), String::from_utf8(sort).expect("text")))
    }

    fn pair(partition: &str, sort: &str) -> Result<(String, String), Malformed> {
        Ok((partition.to_owned(), sort.to_owned()))
    }

    #[test]
    fn columns_are_found_by_number() {
        let finder = csv("1", Some("3"), None).expect("numbers need no header");
        assert_eq!(keys(&finder, "0041;LATIN CAPITAL LETTER A;Lu;0"), pair("0041", "Lu"));
        assert_eq!(keys(&finder, "\"a;\"\"b\";x;\"c\"\r"), pair("a;\"b", "c"));
        assert_eq!(keys(&finder, "\u{feff}a;b;c"), pair("a", "c"));
    }

    #[test]
    fn columns_are_found_by_name_in_the_header() {
        let finder = csv("code", None, Some("\u{feff}name;\"code\"\r")).expect("it is there");
        assert_eq!(keys(&finder, "x;7"), pair("7", ""));
        assert_eq!(
            csv("id", None, Some("name;code")),
            Err(ColumnError::UnknownName { name: "id".into(), known: "name, code".into() })
        );
        assert_eq!(csv("id", None, None), Err(ColumnError::NameWithoutHeader("id".into())));
        assert_eq!(csv("0", None, None), Err(ColumnError::Zero));
    }

    #[test]
    fn a_malformed_line_says_what_is_wrong() {
        let finder = csv("2", None, None).expect("a number");
        for (record, why) in [
            ("", Malformed::Empty),
            ("\r", Malformed::Empty),
            ("a", Malformed::TooFewColumns { found: 1, wanted: 2 }),
            ("a;;b", Malformed::EmptyKey),
            ("a;12345678901234567", Malformed::KeyTooLong { bytes: 17, limit: LIMIT }),
        ] {
            assert_eq!(keys(&finder, record), Err(why), "{record:?}");
        }
    }

    #[test]
    fn json_fields_may_be_strings_or_numbers() {
        let id = Column::Name("id".into());
        let finder = KeyFinder::json(&id, Some(&Column::Name("at".into())));
        assert_eq!(
            keys(&finder, r#"{"id":"a\u0041\n","at":12.50,"x":[1]}"#),
            pair("aA\n", "12.50")
        );
        assert_eq!(keys(&finder, r#"{"id":"a"}"#), Err(Malformed::MissingField("at".into())));
        assert_eq!(keys(&finder, r#"{"id":null,"at":1}"#), Err(Malformed::FieldKind("id".into())));
        assert!(matches!(keys(&finder, r#"{"id":1,"#), Err(Malformed::Json(_))));
        assert!(matches!(keys(&finder, "[1]"), Err(Malformed::Json(_))));
    }

    #[test]
    fn delimiters_are_single_characters() {
        assert_eq!(";".parse(), Ok(Delimiter(b';')));
        assert_eq!("tab".parse(), Ok(Delimiter(b'\t')));
        for text in ["", "\"", "\n", ";;", "é"] {
            assert!(text.parse::<Delimiter>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_record_panics(record: Vec<u8>, quoting: bool) {
            let finder = KeyFinder::Csv { delimiter: b';', quoting, key: 0, sort: Some(1) };
            let _ = finder.keys(&record, LIMIT);
            let _ = KeyFinder::json(&Column::Number(1), None).keys(&record, LIMIT);
        }
    }
}

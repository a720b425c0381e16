//! EDN, as far as histories need it: written so that Knossos and Elle read it, and read strictly.
//!
//! One map a line. Reading takes a vector around them, records (`#jepsen.history.Op{...}`), sets,
//! lists and symbols too; tags are skipped, nesting is bounded.

use std::fmt::Write as _;

use super::{Dot, HistoryError, Kind, OPERATIONS_MAX, Operation, Process, Value};

/// Deeper nesting is refused.
const DEPTH_MAX: usize = 64;

/// A form of EDN, before it is known what it stands for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    Value(Value),
    Keyword(String),
    List(Vec<Form>),
    Map(Vec<(Form, Form)>),
}

impl Form {
    /// As a value: keywords and symbols become texts, and so do the names of fields.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Keyword(name) => Value::Text(name.clone()),
            Self::List(forms) => Value::List(forms.iter().map(Self::to_value).collect()),
            Self::Map(fields) => Value::Map(
                fields.iter().map(|(key, value)| (key.to_name(), value.to_value())).collect(),
            ),
        }
    }

    fn to_name(&self) -> String {
        match self {
            Self::Keyword(name) | Self::Value(Value::Text(name)) => name.clone(),
            other => {
                let mut text = String::new();
                write_value(&mut text, &other.to_value());
                text
            }
        }
    }
}

/// Writes one operation, without the line's end.
pub(crate) fn write(out: &mut String, operation: &Operation) {
    let _ = write!(out, "{{:index {}, :time {}, :process ", operation.index, operation.time);
    let _ = match operation.process {
        Process::Client(process) => write!(out, "{process}"),
        Process::Nemesis => write!(out, ":nemesis"),
    };
    let _ = write!(out, ", :type :{}, :f :{}, :value ", operation.kind.name(), operation.f);
    write_value(out, &operation.value);
    if let Some(error) = &operation.error {
        out.push_str(", :error ");
        write_text(out, error);
    }
    if let Some(written) = operation.written {
        let _ = write!(out, ", :written {written}");
    }
    if let Some(dot) = &operation.dot {
        out.push_str(", :dot ");
        write_value(out, &dot.to_value());
    }
    if let Some(node) = operation.node {
        let _ = write!(out, ", :node {node}");
    }
    if !operation.actors.is_empty() {
        out.push_str(", :actors ");
        write_value(out, &Value::texts(&operation.actors));
    }
    out.push('}');
}

fn write_value(out: &mut String, value: &Value) {
    let _ = match value {
        Value::Nil => write!(out, "nil"),
        Value::Bool(truth) => write!(out, "{truth}"),
        Value::Int(number) => write!(out, "{number}"),
        Value::Text(text) => {
            write_text(out, text);
            Ok(())
        }
        Value::List(values) => {
            for (at, value) in values.iter().enumerate() {
                out.push(if at == 0 { '[' } else { ' ' });
                write_value(out, value);
            }
            out.write_str(if values.is_empty() { "[]" } else { "]" })
        }
        Value::Map(fields) => {
            out.push('{');
            for (at, (name, value)) in fields.iter().enumerate() {
                out.push_str(if at == 0 { ":" } else { ", :" });
                out.push_str(name);
                out.push(' ');
                write_value(out, value);
            }
            out.write_str("}")
        }
    };
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for sign in text.chars() {
        match sign {
            '"' | '\\' => {
                out.push('\\');
                out.push(sign);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            sign => out.push(sign),
        }
    }
    out.push('"');
}

/// Reads a history: maps, or one vector of maps.
///
/// # Errors
/// [`HistoryError`], with the line or the operation.
pub(crate) fn read(text: &str) -> Result<Vec<Operation>, HistoryError> {
    let mut forms = parse_all(text)?;
    if let [Form::List(_)] = forms.as_slice()
        && let Some(Form::List(inner)) = forms.pop()
    {
        forms = inner;
    }
    if forms.is_empty() {
        return Err(HistoryError::Empty);
    }
    forms.iter().enumerate().map(|(at, form)| operation(at, form)).collect()
}

fn operation(at: usize, form: &Form) -> Result<Operation, HistoryError> {
    let wrong =
        |message: &str| HistoryError::Operation { operation: at, message: message.to_owned() };
    let Form::Map(fields) = form else { return Err(wrong("it is no map")) };
    let field = |name: &str| {
        let named = |key: &Form| matches!(key, Form::Keyword(keyword) if keyword == name);
        fields.iter().find(|(key, _)| named(key)).map(|(_, value)| value)
    };
    let keyword = |name: &str| match field(name) {
        Some(Form::Keyword(word)) => Some(word.clone()),
        _ => None,
    };
    let number = |name: &str| field(name).and_then(|form| form.to_value().as_int());
    let unsigned = |name: &str| number(name).and_then(|number| u64::try_from(number).ok());
    let kind = keyword("type").and_then(|name| Kind::from_name(&name));
    let process = match field("process") {
        Some(Form::Keyword(name)) if name == "nemesis" => Some(Process::Nemesis),
        _ => number("process").map(Process::Client),
    };
    Ok(Operation {
        index: at,
        time: unsigned("time").unwrap_or(0),
        process: process.ok_or_else(|| wrong(":process is missing, or no number or :nemesis"))?,
        kind: kind.ok_or_else(|| wrong(":type is none of :invoke, :ok, :fail and :info"))?,
        f: keyword("f").ok_or_else(|| wrong(":f is missing, or no keyword"))?,
        value: field("value").map_or(Value::Nil, Form::to_value),
        error: match field("error").map(Form::to_value) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        },
        written: unsigned("written"),
        dot: field("dot").map(Form::to_value).as_ref().and_then(Dot::of_value),
        node: number("node"),
        actors: field("actors").and_then(|form| form.to_value().as_texts()).unwrap_or_default(),
    })
}

/// Reads all forms of a text.
///
/// # Errors
/// [`HistoryError::Syntax`] with the line, [`HistoryError::TooLong`].
pub(crate) fn parse_all(text: &str) -> Result<Vec<Form>, HistoryError> {
    let mut parser = Parser { rest: text, line: 1 };
    let mut forms = Vec::new();
    while parser.peek().is_some() {
        if forms.len() == OPERATIONS_MAX {
            return Err(HistoryError::TooLong);
        }
        forms.push(parser.form(0)?);
    }
    Ok(forms)
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl Parser<'_> {
    fn wrong(&self, message: impl Into<String>) -> HistoryError {
        HistoryError::Syntax { line: self.line, message: message.into() }
    }

    fn take(&mut self) -> Option<char> {
        let sign = self.rest.chars().next()?;
        self.rest = &self.rest[sign.len_utf8()..];
        if sign == '\n' {
            self.line += 1;
        }
        Some(sign)
    }

    /// The next sign of a form, after space, commas and comments.
    fn peek(&mut self) -> Option<char> {
        loop {
            let sign = self.rest.chars().next()?;
            if sign == ';' {
                while self.take().is_some_and(|sign| sign != '\n') {}
            } else if sign.is_whitespace() || sign == ',' {
                self.take();
            } else {
                return Some(sign);
            }
        }
    }

    fn form(&mut self, depth: usize) -> Result<Form, HistoryError> {
        if depth > DEPTH_MAX {
            return Err(self.wrong(format!("it is nested deeper than {DEPTH_MAX}")));
        }
        match self.peek() {
            None => Err(self.wrong("it ends in the middle of a form")),
            Some('{') => self.map(depth),
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some('"') => self.text(),
            Some('#') => {
                self.take();
                if self.rest.starts_with('{') {
                    return self.list('}', depth);
                }
                // A tag says what the form after it stands for: the form is enough.
                self.word();
                self.form(depth + 1)
            }
            Some(':') => {
                self.take();
                match self.word() {
                    "" => Err(self.wrong("a colon without a name")),
                    name => Ok(Form::Keyword(name.to_owned())),
                }
            }
            Some(_) => self.atom(),
        }
    }

    fn list(&mut self, end: char, depth: usize) -> Result<Form, HistoryError> {
        self.take();
        let mut forms = Vec::new();
        while self.peek() != Some(end) {
            if forms.len() == OPERATIONS_MAX {
                return Err(HistoryError::TooLong);
            }
            forms.push(self.form(depth + 1)?);
        }
        self.take();
        Ok(Form::List(forms))
    }

    fn map(&mut self, depth: usize) -> Result<Form, HistoryError> {
        self.take();
        let mut fields = Vec::new();
        while self.peek() != Some('}') {
            let key = self.form(depth + 1)?;
            if self.peek() == Some('}') {
                return Err(self.wrong("a map has a key without a value"));
            }
            fields.push((key, self.form(depth + 1)?));
        }
        self.take();
        Ok(Form::Map(fields))
    }

    fn text(&mut self) -> Result<Form, HistoryError> {
        self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                Some('"') => return Ok(Form::Value(Value::Text(text))),
                Some('\\') => match self.take() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(sign @ ('"' | '\\')) => text.push(sign),
                    _ => return Err(self.wrong("an unknown escape in a text")),
                },
                Some(sign) => text.push(sign),
                None => return Err(self.wrong("a text has no end")),
            }
        }
    }

    fn word(&mut self) -> &str {
        let ends = |sign: char| sign.is_whitespace() || ",()[]{}\";".contains(sign);
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn atom(&mut self) -> Result<Form, HistoryError> {
        let line = self.line;
        let wrong = |message: String| HistoryError::Syntax { line, message };
        let word = self.word();
        Ok(Form::Value(match word {
            "nil" => Value::Nil,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "" => {
                let sign = self.rest.chars().next().unwrap_or(' ');
                return Err(wrong(format!("{sign:?} is not expected here")));
            }
            word if word.starts_with(|sign: char| sign.is_ascii_digit() || sign == '-') => {
                let digits = word.strip_suffix('N').unwrap_or(word);
                let number = digits.parse();
                Value::Int(number.map_err(|_| wrong(format!("{word} is no whole number")))?)
            }
            symbol => Value::Text(symbol.to_owned()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Operation {
        Operation {
            index: 0,
            time: 17,
            process: Process::Client(3),
            kind: Kind::Info,
            f: "add".to_owned(),
            value: Value::pair(
                -1,
                Value::Map(vec![
                    ("value".to_owned(), Value::Nil),
                    ("covers".to_owned(), Value::List(vec![])),
                ]),
            ),
            error: Some("no \"answer\"\nin \\ time".to_owned()),
            written: Some(99),
            dot: Some(Dot { actor: "a\"1".to_owned(), time: 7 }),
            node: Some(2),
            actors: vec!["a".to_owned(), "b".to_owned()],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let nemesis = Operation {
            process: Process::Nemesis,
            value: Value::from("isolate n1"),
            error: None,
            written: None,
            dot: None,
            node: None,
            actors: Vec::new(),
            index: 1,
            ..example()
        };
        let mut text = String::new();
        for operation in [&example(), &nemesis] {
            write(&mut text, operation);
            text.push('\n');
        }
        assert_eq!(
            text.lines().last(),
            Some(
                "{:index 1, :time 17, :process :nemesis, :type :info, :f :add, :value \"isolate n1\"}"
            )
        );
        assert_eq!(read(&text), Ok(vec![example(), nemesis]));
    }

    #[test]
    fn jepsens_own_forms_are_read() {
        let text = "[#jepsen.history.Op{:index 0, :time 5, :type :invoke, :process 0, :f :read, :value nil}\n\
                    {:type :ok :process 0 :f :read :value #{1 2N} :clock-offsets {\"n1\" foo/bar}} ; end\n]";
        let history = read(text).expect("EDN");
        assert_eq!(history.len(), 2);
        assert_eq!(history[1].value, Value::ints([1, 2]));
    }

    #[test]
    fn what_is_no_history_is_refused_with_its_place() {
        let deep = "[".repeat(100);
        for (text, expected) in [
            ("", "it has no operations"),
            ("{:type :ok\n :process", "line 2: it ends in the middle of a form"),
            ("{:type}", "line 1: a map has a key without a value"),
            ("\n\"a", "line 2: a text has no end"),
            ("{:a 1.5}", "line 1: 1.5 is no whole number"),
            ("]", "line 1: ']' is not expected here"),
            ("{:type :ok, :f :read}", "operation 0: :process is missing, or no number or :nemesis"),
            ("{:type :done, :f :read, :process 1}", "operation 0: :type is none of"),
            ("17", "operation 0: it is no map"),
            (&deep, "nested deeper than 64"),
        ] {
            let error = read(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}

//! A TOML text as settings: each value with the line that it stands on, each setting with its
//! override in the environment, and every mistake collected, so that all are told at once.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What the names of the overrides begin with.
pub(super) const ENVIRONMENT_PREFIX: &str = "QUOIT_";
/// Ends of settings' names that say a unit, longest first where one ends another.
const UNITS: &[(&str, &str)] = &[
    ("milliseconds", "milliseconds"),
    ("seconds", "seconds"),
    ("minutes", "minutes"),
    ("hours", "hours"),
    ("days", "days"),
    ("millis", "milliseconds"),
    ("ms", "milliseconds"),
    ("sec", "seconds"),
    ("secs", "seconds"),
    ("s", "seconds"),
    ("m", "minutes"),
    ("min", "minutes"),
    ("bytes", "bytes"),
    ("kib", "KiB"),
    ("mib", "MiB"),
    ("gib", "GiB"),
    ("kb", "kB"),
    ("mb", "MB"),
    ("gb", "GB"),
];
/// Names this alike (Jaro-Winkler) are offered as "did you mean".
const LIKENESS_MIN: f64 = 0.8;

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Where a mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this line of the file, from 1.
    Line(usize),
    /// In this variable of the environment.
    Environment(String),
    /// In the configuration as a whole, as where something is missing.
    Whole,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Line(line) => write!(f, "line {line}: {}", self.message),
            Place::Environment(name) => write!(f, "environment {name}: {}", self.message),
            Place::Whole => f.write_str(&self.message),
        }
    }
}

/// All sections of a configuration, and what was found wrong so far.
pub(super) struct Document<'a> {
    text: &'a str,
    root: DeTable<'a>,
    environment: &'a BTreeMap<String, String>,
    sections: Vec<&'static str>,
    /// Every section's settings, as (section, key).
    known: Vec<(&'static str, &'static str)>,
    unknown: Vec<Unknown>,
    /// The overrides that were found.
    pub(super) overrides: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

/// A key that no setting asked for.
struct Unknown {
    section: &'static str,
    key: String,
    place: Place,
}

impl<'a> Document<'a> {
    /// Parses the text. What is no TOML is one problem with its line.
    pub(super) fn parse(
        text: &'a str,
        environment: &'a BTreeMap<String, String>,
    ) -> Result<Self, Problem> {
        let root = DeTable::parse(text).map_err(|error| Problem {
            place: error.span().map_or(Place::Whole, |span| line_of(text, &span)),
            message: error.message().to_owned(),
        })?;
        Ok(Self {
            text,
            root: root.into_inner(),
            environment,
            sections: Vec::new(),
            known: Vec::new(),
            unknown: Vec::new(),
            overrides: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// Reads the settings of a section; what `read` does not ask for is unknown.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        self.sections.push(name);
        let mut problems = Vec::new();
        let found = self.root.get(name);
        let table = found.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (found, table) {
            problems.push(Problem {
                place: line_of(self.text, &value.span()),
                message: format!("{name} is a section: write [{name}] on a line of its own"),
            });
        }
        let mut section = Section {
            text: self.text,
            name,
            place: found.map_or(Place::Whole, |value| line_of(self.text, &value.span())),
            table,
            environment: Some(self.environment),
            known: Vec::new(),
            overrides: Vec::new(),
            unknown: Vec::new(),
            problems,
        };
        let result = read(&mut section);
        section.finish();
        self.known.extend(section.known.iter().map(|key| (name, *key)));
        self.overrides.append(&mut section.overrides);
        self.unknown.append(&mut section.unknown);
        self.problems.append(&mut section.problems);
        result
    }

    /// Ends the reading: what is unknown becomes problems, with what may have been meant.
    pub(super) fn finish(&mut self) {
        for (key, value) in &self.root {
            if !self.sections.contains(&key.get_ref().as_ref()) {
                let place = line_of(self.text, &key.span());
                let key = key.get_ref().as_ref();
                let problem = match value.get_ref() {
                    DeValue::Table(_) => self.unknown_section(key, place),
                    _ => self.unknown_key("", key, place),
                };
                self.problems.push(problem);
            }
        }
        for unknown in std::mem::take(&mut self.unknown) {
            let problem = self.unknown_key(unknown.section, &unknown.key, unknown.place);
            self.problems.push(problem);
        }
        self.problems.sort_by_key(|problem| match problem.place {
            Place::Line(line) => (0, line),
            Place::Environment(_) => (1, 0),
            Place::Whole => (2, 0),
        });
    }

    fn unknown_section(&self, name: &str, place: Place) -> Problem {
        let hint = match most_alike(name, self.sections.iter().copied()) {
            Some(section) => format!("did you mean [{section}]?"),
            None => {
                let sections: Vec<_> =
                    self.sections.iter().map(|name| format!("[{name}]")).collect();
                format!("the sections are {}", sections.join(", "))
            }
        };
        Problem { place, message: format!("unknown section [{name}]; {hint}") }
    }

    fn unknown_key(&self, section: &'static str, key: &str, place: Place) -> Problem {
        let own = || self.known.iter().filter(|known| known.0 == section).map(|known| known.1);
        let hint = if own().any(|known| known == key) {
            "only the file can set it".to_owned()
        } else if let Some(known) = own().find(|known| same_but_for_unit(known, key)) {
            let unit = unit_of(known).map_or(String::new(), |unit| format!(", in {unit}"));
            format!("did you mean {known}{unit}?")
        } else if let Some((home, _)) = self.known.iter().find(|known| known.1 == key) {
            format!("it belongs in [{home}]")
        } else if let Some(known) = most_alike(key, own()) {
            format!("did you mean {known}?")
        } else if section.is_empty() {
            "each setting stands in a section".to_owned()
        } else {
            format!("[{section}] has {}", own().collect::<Vec<_>>().join(", "))
        };
        let whole = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        Problem { place, message: format!("unknown setting {whole}; {hint}") }
    }
}

/// A table of the document whose settings are being read.
pub(super) struct Section<'a> {
    text: &'a str,
    name: &'static str,
    place: Place,
    table: Option<&'a DeTable<'a>>,
    /// `None` inside lists, which the environment does not reach.
    environment: Option<&'a BTreeMap<String, String>>,
    known: Vec<&'static str>,
    overrides: Vec<String>,
    unknown: Vec<Unknown>,
    problems: Vec<Problem>,
}

/// A value as it was written.
enum Written<'a> {
    InFile(&'a Spanned<DeValue<'a>>),
    InEnvironment(String, &'a str),
}

impl<'a> Section<'a> {
    /// Notes a mistake that concerns the setting `key`.
    pub(super) fn wrong(&mut self, key: &'static str, message: impl Display) {
        let place = self.place_of(key);
        self.problems.push(Problem { place, message: format!("{}.{key}: {message}", self.name) });
    }

    /// A text, or `None` where it is absent or (as is then noted) none.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.find(key)? {
            Written::InEnvironment(_, text) => Some(text.to_owned()),
            Written::InFile(value) => match value.get_ref() {
                DeValue::String(text) => Some(text.clone().into_owned()),
                other => {
                    let message = format!("write a text in quotes, not {}", kind(other));
                    self.wrong(key, message);
                    None
                }
            },
        }
    }

    /// A text that must be there.
    pub(super) fn required(&mut self, key: &'static str, example: &str) -> Option<String> {
        let noted = self.problems.len();
        let text = self.text(key);
        if text.is_none() && self.problems.len() == noted {
            self.wrong(key, format!("is missing; write for example {key} = {example}"));
        }
        text
    }

    /// What a text means; a text that means nothing is noted.
    pub(super) fn meaning<T>(&mut self, key: &'static str, text: Option<String>) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = text?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(key, format!("{text:?} is not understood: {error}"));
                None
            }
        }
    }

    /// A whole number in a range. The default is not checked against the range.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
        default: i64,
    ) -> i64 {
        let number = match self.find(key) {
            None => return default,
            Some(Written::InEnvironment(_, text)) => text.trim().parse().map_err(|_| {
                let text: String = text.chars().take(64).collect();
                format!("the text {text:?}")
            }),
            Some(Written::InFile(value)) => match value.get_ref() {
                DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                    .map_err(|_| "one that is too large".to_owned()),
                other => Err(kind(other)),
            },
        };
        let unit = unit_of(key).map_or(String::new(), |unit| format!(" of {unit}"));
        let (least, greatest) = (range.start(), range.end());
        match number {
            Ok(number) if range.contains(&number) => return number,
            Ok(number) => self.wrong(
                key,
                format!("{number} is out of range: write a whole number{unit} from {least} to {greatest}"),
            ),
            Err(found) => self.wrong(
                key,
                format!("write a whole number{unit} from {least} to {greatest}, not {found}"),
            ),
        }
        default
    }

    /// Whether it is so.
    pub(super) fn switch(&mut self, key: &'static str, default: bool) -> bool {
        let found = match self.find(key) {
            None => return default,
            Some(Written::InEnvironment(_, text)) => match text.trim() {
                "true" => return true,
                "false" => return false,
                text => format!("the text {:?}", text.chars().take(64).collect::<String>()),
            },
            Some(Written::InFile(value)) => match value.get_ref() {
                DeValue::Boolean(value) => return *value,
                other => kind(other),
            },
        };
        self.wrong(key, format!("write true or false, not {found}"));
        default
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        default: T,
    ) -> T {
        let Some(text) = self.text(key) else {
            return default;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let all: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.wrong(key, format!("{text:?} is none of {}", all.join(", ")));
        default
    }

    /// A list of texts; `None` where it is absent or (as is then noted) none.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.found_in_file(key)?;
        let texts = value.get_ref().as_array().map(|items| {
            let text = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
            items.iter().map(text).collect::<Option<Vec<_>>>()
        });
        let texts = texts.flatten();
        if texts.is_none() {
            self.wrong(key, "write a list of texts, such as [\"carts\", \"orders\"]");
        }
        texts
    }

    /// A list of tables, `[[section.key]]`.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> Vec<T> {
        let Some(value) = self.found_in_file(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, format!("write [[{name}]] on a line of its own for each"));
            return Vec::new();
        };
        let mut items = Vec::new();
        for item in array {
            let place = line_of(self.text, &item.span());
            let Some(table) = item.get_ref().as_table() else {
                let message = format!("{name} is a list of tables: write [[{name}]] for each");
                self.problems.push(Problem { place, message });
                continue;
            };
            let mut section = Section {
                text: self.text,
                name,
                place,
                table: Some(table),
                environment: None,
                known: Vec::new(),
                overrides: Vec::new(),
                unknown: Vec::new(),
                problems: Vec::new(),
            };
            items.push(read(&mut section));
            section.finish();
            for unknown in std::mem::take(&mut section.unknown) {
                let hint = match most_alike(&unknown.key, section.known.iter().copied()) {
                    Some(known) => format!("did you mean {known}?"),
                    None => format!("it has {}", section.known.join(", ")),
                };
                let message = format!("unknown setting {name}.{}; {hint}", unknown.key);
                self.problems.push(Problem { place: unknown.place, message });
            }
            self.problems.append(&mut section.problems);
        }
        items
    }

    /// Names a setting that was not asked for, since it is not written.
    pub(super) fn knows(&mut self, key: &'static str) {
        self.found_in_file(key);
    }

    /// Whether the setting is written anywhere, be it wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.look_up(key).is_some()
    }

    /// Whether the file has the setting.
    pub(super) fn file_has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// A value that the caller understands, from wherever it counts.
    fn find(&mut self, key: &'static str) -> Option<Written<'a>> {
        self.found_in_file(key);
        let written = self.look_up(key);
        if let Some(Written::InEnvironment(variable, _)) = &written
            && !self.overrides.contains(variable)
        {
            self.overrides.push(variable.clone());
        }
        written
    }

    fn look_up(&self, key: &str) -> Option<Written<'a>> {
        if let Some(environment) = self.environment {
            let variable = variable(self.name, key);
            if let Some(text) = environment.get(&variable) {
                return Some(Written::InEnvironment(variable, text));
            }
        }
        self.table.and_then(|table| table.get(key)).map(Written::InFile)
    }

    fn found_in_file(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.and_then(|table| table.get(key))
    }

    fn place_of(&self, key: &str) -> Place {
        match self.look_up(key) {
            Some(Written::InEnvironment(variable, _)) => Place::Environment(variable),
            Some(Written::InFile(value)) => line_of(self.text, &value.span()),
            None => self.place.clone(),
        }
    }

    /// Gathers the keys and variables of this section that nothing asked for.
    fn finish(&mut self) {
        for (key, _) in self.table.into_iter().flatten() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                self.unknown.push(Unknown {
                    section: self.name,
                    key: key.get_ref().clone().into_owned(),
                    place: line_of(self.text, &key.span()),
                });
            }
        }
        let prefix = variable(self.name, "");
        for name in self.environment.into_iter().flat_map(BTreeMap::keys) {
            if let Some(rest) = name.strip_prefix(&prefix)
                && !self.overrides.contains(name)
            {
                self.unknown.push(Unknown {
                    section: self.name,
                    key: rest.to_lowercase(),
                    place: Place::Environment(name.clone()),
                });
            }
        }
    }
}

/// The variable that overrides a setting.
fn variable(section: &str, key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{section}_{key}").to_uppercase()
}

fn line_of(text: &str, span: &Range<usize>) -> Place {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    Place::Line(1 + before.iter().filter(|byte| **byte == b'\n').count())
}

/// A value in words, for "not ...".
fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let text: String = text.chars().take(64).collect();
            format!("the text {text:?}")
        }
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The unit that a setting's name says, in words.
fn unit_of(key: &str) -> Option<&'static str> {
    key.split('_')
        .rev()
        .find_map(|part| UNITS.iter().find(|(ending, _)| *ending == part).map(|(_, words)| *words))
}

/// Whether two names differ only in the unit that they end with (or that one lacks).
fn same_but_for_unit(known: &str, key: &str) -> bool {
    let stem = |name: &str| match name.rsplit_once('_') {
        Some((stem, unit)) if UNITS.iter().any(|(ending, _)| *ending == unit) => stem.to_owned(),
        _ => name.to_owned(),
    };
    let known_stem = stem(known);
    known_stem != known && known_stem == stem(key)
}

/// The likest of the names, if any is like it at all.
fn most_alike(name: &str, among: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    among
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

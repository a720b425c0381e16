//! What an operation was given or has found: a small data model that EDN and JSON both have.

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Value>),
    /// Fields by name, in order.
    Map(Vec<(String, Value)>),
}

impl Value {
    pub(crate) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// A list of numbers.
    pub(crate) fn as_ints(&self) -> Option<Vec<i64>> {
        self.as_list()?.iter().map(Self::as_int).collect()
    }

    /// A list of texts.
    pub(crate) fn as_texts(&self) -> Option<Vec<String>> {
        let text = |value: &Self| match value {
            Self::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.as_list()?.iter().map(text).collect()
    }

    /// A key and what is said of it, as `jepsen.independent` has it: `[key value]`.
    pub(crate) fn as_pair(&self) -> Option<(i64, &Self)> {
        match self {
            Self::List(list) => match list.as_slice() {
                [key, value] => Some((key.as_int()?, value)),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(fields) => {
                fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub(crate) fn pair(key: i64, value: Self) -> Self {
        Self::List(vec![Self::Int(key), value])
    }

    pub(crate) fn ints(numbers: impl IntoIterator<Item = i64>) -> Self {
        Self::List(numbers.into_iter().map(Self::Int).collect())
    }

    pub(crate) fn texts(texts: &[String]) -> Self {
        Self::List(texts.iter().cloned().map(Self::Text).collect())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nil, Into::into)
    }
}

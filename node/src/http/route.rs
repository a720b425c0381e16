//! What a path means. Keys are any bytes: they are decoded from the path as it came, never as text.

use bytes::Bytes;
use hyper::Method;

use super::page::Asset;
use super::problem::{Kind, Problem};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/healthz`
    Healthz,
    /// `/readyz`
    Readyz,
    /// `/metrics`
    Metrics,
    /// `/v1/openapi.json`
    OpenApi,
    /// `/`, and the files that the page is made of
    Page(Asset),
    /// `/ui/cluster.json`: what the page shows
    Cluster,
    /// What holds or names data.
    Data(DataRoute),
}

/// What is asked for of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DataRoute {
    /// `/v1/tables`
    Tables,
    /// `/v1/tables/{table}`
    Table {
        /// Its name.
        table: String,
    },
    /// `/v1/tables/{table}/keys/{key}`
    Key {
        /// The table's name.
        table: String,
        /// The partition key.
        partition: Bytes,
    },
    /// `/v1/tables/{table}/keys/{key}/items`
    Items {
        /// The table's name.
        table: String,
        /// The partition key.
        partition: Bytes,
    },
    /// `/v1/tables/{table}/batch`
    Batch {
        /// The table's name.
        table: String,
    },
}

impl DataRoute {
    /// The path, with names in the place of tables and keys.
    pub(super) fn template(&self) -> &'static str {
        match self {
            Self::Tables => "/v1/tables",
            Self::Table { .. } => "/v1/tables/{table}",
            Self::Key { .. } => "/v1/tables/{table}/keys/{key}",
            Self::Items { .. } => "/v1/tables/{table}/keys/{key}/items",
            Self::Batch { .. } => "/v1/tables/{table}/batch",
        }
    }

    /// The table's name.
    pub(super) fn table(&self) -> Option<&str> {
        match self {
            Self::Tables => None,
            Self::Table { table }
            | Self::Key { table, .. }
            | Self::Items { table, .. }
            | Self::Batch { table } => Some(table),
        }
    }
}

impl Route {
    /// Reads the path of a request, still encoded.
    pub(super) fn of(path: &str) -> Result<Self, Problem> {
        let parts: Vec<&str> = path.strip_prefix('/').unwrap_or(path).splitn(8, '/').collect();
        let table = |text: &str| {
            let bytes = decode(text, false)?;
            String::from_utf8(bytes.into()).map_err(|_| {
                Problem::new(Kind::UnknownTable, "tables have no such names, which are no text")
            })
        };
        Ok(match parts.as_slice() {
            ["healthz"] => Self::Healthz,
            ["readyz"] => Self::Readyz,
            ["metrics"] => Self::Metrics,
            ["v1", "openapi.json"] => Self::OpenApi,
            [""] | ["ui"] => Self::Page(Asset::Page),
            ["ui", "cluster.json"] => Self::Cluster,
            ["ui", name] => match Asset::of(name) {
                Some(asset) => Self::Page(asset),
                None => return Err(no_such_path()),
            },
            ["v1", "tables"] => Self::Data(DataRoute::Tables),
            ["v1", "tables", name] if !name.is_empty() => {
                Self::Data(DataRoute::Table { table: table(name)? })
            }
            ["v1", "tables", name, "batch"] => Self::Data(DataRoute::Batch { table: table(name)? }),
            ["v1", "tables", name, "keys", key] if !key.is_empty() => {
                Self::Data(DataRoute::Key { table: table(name)?, partition: decode(key, false)? })
            }
            ["v1", "tables", name, "keys", key, "items"] if !key.is_empty() => {
                Self::Data(DataRoute::Items { table: table(name)?, partition: decode(key, false)? })
            }
            _ => {
                return Err(no_such_path());
            }
        })
    }

    /// The methods that it knows; `GET` stands for `HEAD` too.
    pub(super) fn methods(&self) -> &'static [Method] {
        const GET: &[Method] = &[Method::GET, Method::HEAD];
        match self {
            Self::Healthz | Self::Readyz | Self::Metrics | Self::OpenApi => GET,
            Self::Page(_) | Self::Cluster => GET,
            Self::Data(route) => match route {
                DataRoute::Tables | DataRoute::Items { .. } => GET,
                DataRoute::Table { .. } => &[Method::GET, Method::HEAD, Method::PUT],
                DataRoute::Key { .. } => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
                DataRoute::Batch { .. } => &[Method::POST],
            },
        }
    }
}

fn no_such_path() -> Problem {
    Problem::new(
        Kind::NoSuchPath,
        "there are / (a page), /healthz, /readyz, /metrics, and what /v1/openapi.json describes",
    )
}

/// The bytes that a percent-encoded text stands for.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Result<Bytes, Problem> {
    let wrong =
        || Problem::invalid("a '%' is not followed by two hexadecimal digits: write %25 for a '%'");
    let digit =
        |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16)).ok_or_else(wrong);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte")
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_any_bytes() {
        let key = |path: &str| match Route::of(path) {
            Ok(Route::Data(DataRoute::Key { table, partition })) => (table, partition),
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(key("/v1/tables/t/keys/a"), ("t".into(), "a".into()));
        let every = (0..=255_u8).fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(key(&format!("/v1/tables/t/keys/{every}")).1, bytes);
        assert_eq!(key("/v1/tables/t/keys/a%2Fitems+%25").1, "a/items+%");
        assert!(matches!(
            Route::of("/v1/tables/t/keys/%ff/items"),
            Ok(Route::Data(DataRoute::Items { partition, .. })) if partition[..] == [0xff]
        ));
    }

    #[test]
    fn what_is_no_path_is_told() {
        for path in [
            "/ui/",
            "/ui/nothing.js",
            "/ui/page.js/",
            "/v1",
            "/v1/tables/",
            "/v1/tables/t/keys",
            "/v1/tables/t/keys/",
            "/healthz/",
            "/v1/tables/t/keys/a/b",
            "/v1/tables/t/keys/a/items/x",
            "/v1//t",
            "/v1/tables/t/keys//items",
        ] {
            assert_eq!(Route::of(path).unwrap_err().kind, Kind::NoSuchPath, "{path}");
        }
        for path in [
            "/v1/tables/t/keys/%",
            "/v1/tables/t/keys/%4",
            "/v1/tables/t/keys/%+1",
            "/v1/tables/%gg",
        ] {
            assert_eq!(Route::of(path).unwrap_err().kind, Kind::Invalid, "{path}");
        }
        assert_eq!(Route::of("/v1/tables/%ff").unwrap_err().kind, Kind::UnknownTable);
    }
}

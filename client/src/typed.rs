//! Tables of values that serde knows how to write down.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use quoit_ring::HybridTime;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    Change, Context, IntoKey, ReadError, Reading, Resolver, Table, UpdateError, Updated, Value,
    WriteError, Written,
};

/// How values are written down.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Context, Format};
///
/// carts.typed::<[u8; 3]>(Format::Json).put("alice", &[1, 2, 3], &Context::none()).await?;
/// assert_eq!(carts.get("alice").await?.single().unwrap().bytes, "[1,2,3]");
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// MessagePack, with the names of fields: compact, and fields may come and go.
    #[default]
    MessagePack,
    /// JSON: readable for people and other programs.
    Json,
}

/// One value of a key, read.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Context, Format};
///
/// let carts = carts.typed::<u64>(Format::MessagePack);
/// for apples in [3, 5] {
///     carts.put("alice", &apples, &Context::none()).await?;
/// }
/// let siblings = carts.get("alice").await?.siblings;
/// assert_eq!([siblings[0].value, siblings[1].value], [3, 5]);
/// assert!(siblings[0].written < siblings[1].written);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling<T> {
    /// The value.
    pub value: T,
    /// When it was written.
    pub written: HybridTime,
    /// When it expires, as hybrid time.
    pub expires: Option<HybridTime>,
}

/// What a read of a [`TypedTable`] found.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Context, Format};
///
/// let carts = carts.typed::<u64>(Format::MessagePack);
/// carts.put("alice", &3, &Context::none()).await?;
/// let reading = carts.get("alice").await?;
/// carts.put("alice", &(reading.siblings[0].value + 1), &reading.context).await?;
/// assert_eq!(carts.get("alice").await?.siblings[0].value, 4);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedReading<T> {
    /// The live values, the earliest written first (see [`Reading::siblings`]).
    pub siblings: Vec<Sibling<T>>,
    /// Covers all that was read; give it to the write that replaces it.
    pub context: Context,
}

impl<T> TypedReading<T> {
    /// The one value that is left of the siblings by a resolver; `None` where the key is absent.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Context, Format, Max};
    ///
    /// let carts = carts.typed::<u64>(Format::MessagePack);
    /// for apples in [5, 3] {
    ///     carts.put("alice", &apples, &Context::none()).await?;
    /// }
    /// assert_eq!(carts.get("alice").await?.resolved(&Max), Some(5));
    /// assert_eq!(carts.get("bob").await?.resolved(&Max), None);
    /// # Ok(()) });
    /// ```
    pub fn resolved(self, resolver: &impl Resolver<T>) -> Option<T> {
        resolved(self.siblings, resolver)
    }
}

fn resolved<T>(mut siblings: Vec<Sibling<T>>, resolver: &impl Resolver<T>) -> Option<T> {
    match siblings.len() {
        0 => None,
        1 => siblings.pop().map(|sibling| sibling.value),
        _ => Some(resolver.resolve(siblings)),
    }
}

/// A typed operation that did not come to its end.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Format, TypedError};
///
/// carts.replace("alice", "3 apples").await?;
/// let outcome = carts.typed::<u64>(Format::Json).get("alice").await;
/// assert!(matches!(outcome, Err(TypedError::Decode { .. })));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// A read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A write failed, or its outcome is not known.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An update failed.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// A value that is stored is not of the type, or not of the format. Nothing was written. Another
    /// program may have written it: read it with [`Table::get`] to see.
    #[error("a value of the key in the table {table} cannot be read as {type_name}: {reason}")]
    Decode {
        /// The table.
        table: String,
        /// The type.
        type_name: &'static str,
        /// Why.
        reason: String,
    },
    /// The value cannot be written down in the format. Nothing was written.
    #[error("not written: the value cannot be written down: {reason}")]
    Encode {
        /// Why.
        reason: String,
    },
}

impl TypedError {
    /// Whether the write may be done nonetheless, now or later.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Format;
    ///
    /// carts.replace("alice", "3 apples").await?;
    /// let error = carts.typed::<u64>(Format::Json).get("alice").await.unwrap_err();
    /// assert!(!error.is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Write(error) => error.is_unknown(),
            Self::Update(error) => error.is_unknown(),
            Self::Read(_) | Self::Decode { .. } | Self::Encode { .. } => false,
        }
    }
}

/// A [`Table`] of values of one type. Cheap to clone.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Format, Union};
/// use std::collections::BTreeSet;
///
/// let carts = carts.typed::<BTreeSet<String>>(Format::Json);
/// carts
///     .update("alice", &Union, |cart| {
///         let mut cart = cart.unwrap_or_default();
///         cart.insert("apples".to_owned());
///         Some(cart)
///     })
///     .await?;
/// let cart = carts.get("alice").await?.resolved(&Union);
/// assert!(cart.is_some_and(|cart| cart.contains("apples")));
/// # Ok(()) });
/// ```
pub struct TypedTable<T> {
    table: Table,
    format: Format,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for TypedTable<T> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), format: self.format, value: PhantomData }
    }
}

impl<T> fmt::Debug for TypedTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedTable")
            .field("table", &self.table)
            .field("format", &self.format)
            .finish()
    }
}

impl Table {
    /// This table, with values of a type, written down in a format.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Context, Format};
    ///
    /// let carts = carts.typed::<Vec<String>>(Format::Json);
    /// carts.put("alice", &vec!["apples".to_owned()], &Context::none()).await?;
    /// assert_eq!(carts.get("alice").await?.siblings[0].value, ["apples"]);
    /// # Ok(()) });
    /// ```
    pub fn typed<T: Serialize + DeserializeOwned>(&self, format: Format) -> TypedTable<T> {
        TypedTable { table: self.clone(), format, value: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned> TypedTable<T> {
    /// The table with values of bytes.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Format;
    ///
    /// assert_eq!(carts.typed::<u64>(Format::Json).table().name(), "carts");
    /// # Ok(()) });
    /// ```
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Reads a key.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Format, LastWriter};
    ///
    /// carts.replace("alice", "42").await?;
    /// let reading = carts.typed::<u64>(Format::Json).get("alice").await?;
    /// assert_eq!(reading.resolved(&LastWriter), Some(42));
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`TypedError::Read`] and [`TypedError::Decode`].
    pub async fn get(&self, key: impl IntoKey) -> Result<TypedReading<T>, TypedError> {
        let Reading { mut siblings, context, .. } = self.table.get(key).await?;
        siblings.sort_by_key(|value| value.written);
        Ok(TypedReading { siblings: self.decode(&siblings)?, context })
    }

    /// Writes a value over what `context` covers, as [`Table::put`] does.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Context, Format};
    ///
    /// let carts = carts.typed::<u64>(Format::Json);
    /// let written = carts.put("alice", &3, &Context::none()).await?;
    /// carts.put("alice", &2, &written.context).await?;
    /// assert_eq!(carts.get("alice").await?.siblings[0].value, 2);
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`TypedError::Encode`] and [`TypedError::Write`].
    pub async fn put(
        &self,
        key: impl IntoKey,
        value: &T,
        context: &Context,
    ) -> Result<Written, TypedError> {
        Ok(self.table.put(key, self.encode(value)?, context).await?)
    }

    /// Deletes what `context` covers, as [`Table::delete`] does.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Context, Format};
    ///
    /// let carts = carts.typed::<u64>(Format::Json);
    /// let written = carts.put("alice", &3, &Context::none()).await?;
    /// carts.delete("alice", &written.context).await?;
    /// assert!(carts.get("alice").await?.siblings.is_empty());
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`TypedError::Write`].
    pub async fn delete(
        &self,
        key: impl IntoKey,
        context: &Context,
    ) -> Result<Written, TypedError> {
        Ok(self.table.delete(key, context).await?)
    }

    /// Reads a key, resolves its siblings, lets `change` make the new value of that (`None` where the
    /// key is absent, or to delete it), and writes it, again and again while others write the key, as
    /// [`Table::update`] does.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Format, Max};
    ///
    /// let carts = carts.typed::<u64>(Format::Json);
    /// for _ in 0..3 {
    ///     carts.update("visits", &Max, |visits| Some(visits.unwrap_or(0) + 1)).await?;
    /// }
    /// assert_eq!(carts.get("visits").await?.resolved(&Max), Some(3));
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`TypedError::Update`], [`TypedError::Decode`] and [`TypedError::Encode`].
    pub async fn update(
        &self,
        key: impl IntoKey,
        resolver: &impl Resolver<T>,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Updated, TypedError> {
        let mut trouble = None;
        let updated = self
            .table
            .update(key, |siblings| {
                let value = self.decode(siblings).map(|values| change(resolved(values, resolver)));
                let is_absent = siblings.is_empty();
                match value.and_then(|value| value.map(|value| self.encode(&value)).transpose()) {
                    Ok(Some(bytes)) => Change::Put(bytes),
                    Ok(None) if is_absent => Change::Keep,
                    Ok(None) => Change::Delete,
                    Err(error) => {
                        trouble = Some(error);
                        Change::Keep
                    }
                }
            })
            .await?;
        trouble.map_or(Ok(updated), Err)
    }

    fn decode(&self, values: &[Value]) -> Result<Vec<Sibling<T>>, TypedError> {
        let decode = |value: &Value| {
            let decoded = match self.format {
                Format::MessagePack => {
                    rmp_serde::from_slice(&value.bytes).map_err(|error| error.to_string())
                }
                Format::Json => {
                    serde_json::from_slice(&value.bytes).map_err(|error| error.to_string())
                }
            };
            let (written, expires) = (value.written, value.expires);
            decoded.map(|value| Sibling { value, written, expires }).map_err(|reason| {
                TypedError::Decode {
                    table: self.table.name().to_owned(),
                    type_name: std::any::type_name::<T>(),
                    reason,
                }
            })
        };
        values.iter().map(decode).collect()
    }

    fn encode(&self, value: &T) -> Result<Bytes, TypedError> {
        let encoded = match self.format {
            Format::MessagePack => {
                rmp_serde::to_vec_named(value).map_err(|error| error.to_string())
            }
            Format::Json => serde_json::to_vec(value).map_err(|error| error.to_string()),
        };
        encoded.map(Bytes::from).map_err(|reason| TypedError::Encode { reason })
    }
}

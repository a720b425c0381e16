//! What may stand for a key: one text or byte string, or a pair of partition and sort key.

use bytes::Bytes;
use quoit_protocol::Key;

/// What may be a partition key or a sort key: texts and bytes.
///
/// ```
/// use quoit_client::{IntoKey, Key, KeyPart};
///
/// fn of_user(user: impl KeyPart, day: u16) -> Key {
///     (user, &day.to_be_bytes()).into_key()
/// }
/// assert_eq!(of_user("alice", 1).partition, of_user(b"alice", 2).partition);
/// ```
pub trait KeyPart {
    /// Its bytes.
    ///
    /// ```
    /// use quoit_client::KeyPart;
    ///
    /// assert_eq!(KeyPart::into_bytes("alice"), KeyPart::into_bytes(vec![97, 108, 105, 99, 101]));
    /// ```
    fn into_bytes(self) -> Bytes;
}

/// What may name an item: a [`KeyPart`] is a partition key without a sort key, a pair of them is
/// both.
///
/// ```
/// # quoit_sandbox::with_table(async |diary| {
/// use quoit_client::Context;
///
/// diary.put(("alice", "monday"), "rain", &Context::none()).await?;
/// assert!(!diary.get(("alice", "monday")).await?.is_absent());
/// assert!(diary.get("alice").await?.is_absent());
/// # Ok(()) });
/// ```
pub trait IntoKey {
    /// The key.
    ///
    /// ```
    /// use quoit_client::IntoKey;
    ///
    /// let key = ("alice", "monday").into_key();
    /// assert_eq!((&key.partition[..], &key.sort[..]), (&b"alice"[..], &b"monday"[..]));
    /// ```
    fn into_key(self) -> Key;
}

macro_rules! parts {
    ($($part:ty: |$value:ident| $bytes:expr),+ $(,)?) => {$(
        impl KeyPart for $part {
            fn into_bytes(self) -> Bytes {
                let $value = self;
                $bytes
            }
        }

        impl IntoKey for $part {
            fn into_key(self) -> Key {
                Key { partition: KeyPart::into_bytes(self), sort: Bytes::new() }
            }
        }
    )+};
}

parts! {
    &str: |text| Bytes::copy_from_slice(text.as_bytes()),
    &String: |text| Bytes::copy_from_slice(text.as_bytes()),
    String: |text| Bytes::from(text),
    &[u8]: |bytes| Bytes::copy_from_slice(bytes),
    &Vec<u8>: |bytes| Bytes::copy_from_slice(bytes),
    Vec<u8>: |bytes| Bytes::from(bytes),
    Bytes: |bytes| bytes,
    &Bytes: |bytes| bytes.clone(),
}

impl<const LENGTH: usize> KeyPart for &[u8; LENGTH] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl<const LENGTH: usize> IntoKey for &[u8; LENGTH] {
    fn into_key(self) -> Key {
        Key { partition: KeyPart::into_bytes(self), sort: Bytes::new() }
    }
}

impl<P: KeyPart, S: KeyPart> IntoKey for (P, S) {
    fn into_key(self) -> Key {
        Key { partition: self.0.into_bytes(), sort: self.1.into_bytes() }
    }
}

impl IntoKey for Key {
    fn into_key(self) -> Key {
        self
    }
}

impl IntoKey for &Key {
    fn into_key(self) -> Key {
        self.clone()
    }
}

//! How a client is made: by hand, or from a directory that `quoit ca` wrote.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quoit_protocol::FailureCode;
use quoit_ring::{ClusterId, ParseClusterIdError, Zone};
use quoit_session::{Configuration, OperationError, Request, Seed};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use crate::client::{Client, Clock, Inner, Known, trail_of};
use crate::driver::Driver;
use crate::{Profile, Trail, tls};

/// How many requests may be in flight when nobody says otherwise.
const IN_FLIGHT_MAX: usize = 4_096;
/// How long the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The file in a client's directory.
const CONFIGURATION_FILE: &str = "client.toml";

/// By what the client knows the cluster and the cluster knows the client; PEM texts.
///
/// ```
/// # let _cluster = quoit_sandbox::Cluster::start();
/// use quoit_client::Identity;
/// use std::{fs, path::Path};
///
/// let directory = Path::new("../quoit/quoit-data/client");
/// let identity = Identity {
///     authority_pem: fs::read(directory.join("authority.pem"))?,
///     certificate_pem: fs::read(directory.join("client.pem"))?,
///     key_pem: fs::read(directory.join("client.key"))?,
/// };
/// // A log does not tell the key.
/// assert_eq!(format!("{identity:?}"), "Identity(..)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    /// The certificate of the cluster's authority.
    pub authority_pem: Vec<u8>,
    /// The client's certificate, and those between it and the authority if there are any.
    pub certificate_pem: Vec<u8>,
    /// The certificate's private key.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// What a client needs to know before it can connect.
///
/// ```
/// # quoit_sandbox::with_cluster(async || {
/// use quoit_client::ClientBuilder;
/// use std::time::Duration;
///
/// let client = ClientBuilder::from_directory("../quoit/quoit-data/client")?
///     .name("the shop's front")
///     .request_timeout(Duration::from_secs(2))
///     .connect()
///     .await?;
/// assert_eq!(client.table("carts").await?.name(), "carts");
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    cluster: Option<ClusterId>,
    contact_points: Vec<SocketAddr>,
    identity: Option<Identity>,
    revoked_pem: Vec<u8>,
    profile: Profile,
    zone: Option<Zone>,
    in_flight_max: usize,
    name: String,
}

/// A client that could not be made. Nothing was changed anywhere.
///
/// ```
/// use quoit_client::{ClientBuilder, ConnectError};
///
/// match ClientBuilder::from_directory("/none") {
///     Err(ConnectError::File { path, .. }) => assert!(path.ends_with("client.toml")),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A file of the client's directory cannot be read. Check the path and its permissions.
    #[error("{} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `client.toml` is not what it should be. Correct it.
    #[error("{} is wrong: {message}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
    /// The builder was not given something that it needs.
    #[error("the client was not told {0}")]
    Missing(&'static str),
    /// The certificates or the key cannot be used.
    #[error("the client's identity cannot be used: {0}")]
    Identity(String),
    /// No socket could be opened.
    #[error("no UDP socket can be opened")]
    Socket(#[source] io::Error),
    /// No randomness could be had from the operating system.
    #[error("the operating system gives no random numbers: {0}")]
    Randomness(String),
    /// The cluster knows this client, and lets it do nothing. Ask whoever runs it for a role.
    #[error("{message}")]
    Forbidden {
        /// What would be needed, and who may give it, for people.
        message: String,
    },
    /// No contact point led to the cluster. The trail names each and why.
    #[error("the cluster cannot be reached ({0})")]
    Unreachable(Trail),
}

impl ConnectError {
    fn from_session(error: OperationError) -> Self {
        match error {
            OperationError::Refused { failure, .. } if failure.code == FailureCode::Forbidden => {
                Self::Forbidden { message: failure.message }
            }
            error => Self::Unreachable(trail_of(error)),
        }
    }
}

/// `client.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigurationFile {
    cluster: String,
    contact_points: Vec<SocketAddr>,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    revoked: Option<PathBuf>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientBuilder {
    /// A builder with the defaults: 5 s a request, 4,096 requests in flight.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, ConnectError};
    ///
    /// // It knows no cluster yet.
    /// let error = ClientBuilder::new().connect().await.unwrap_err();
    /// assert!(matches!(error, ConnectError::Missing(_)));
    /// # Ok(()) });
    /// ```
    pub fn new() -> Self {
        Self {
            cluster: None,
            contact_points: Vec::new(),
            identity: None,
            revoked_pem: Vec::new(),
            profile: Profile::new(),
            zone: None,
            in_flight_max: IN_FLIGHT_MAX,
            name: format!("quoit-client {}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Reads `client.toml` in a directory, and the files that it names (relative to the directory):
    ///
    /// ```toml
    /// cluster = "00112233445566778899aabbccddeeff"
    /// contact_points = ["127.0.0.1:7101"]
    /// authority = "authority.pem"
    /// certificate = "client.pem"
    /// key = "client.key"
    /// # Whom not to believe any more, as `quoit ca revoke` wrote it; may be left out.
    /// revoked = "revoked.pem"
    /// ```
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::ClientBuilder;
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let client = builder.connect().await?;
    /// assert_eq!(client.record().members.len(), 1);
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`ConnectError::File`] and [`ConnectError::Configuration`], which name the file.
    pub fn from_directory(directory: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let directory = directory.as_ref();
        let path = directory.join(CONFIGURATION_FILE);
        let wrong = |message: String| ConnectError::Configuration { path: path.clone(), message };
        let text = String::from_utf8(read(&path)?)
            .map_err(|_| wrong("it is not UTF-8 text".to_owned()))?;
        let file: ConfigurationFile =
            toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let cluster = file
            .cluster
            .parse()
            .map_err(|error: ParseClusterIdError| wrong(format!("cluster: {error}")))?;
        if file.contact_points.is_empty() {
            return Err(wrong("contact_points is empty: name at least one node".to_owned()));
        }
        let identity = Identity {
            authority_pem: read(&directory.join(file.authority))?,
            certificate_pem: read(&directory.join(file.certificate))?,
            key_pem: read(&directory.join(file.key))?,
        };
        let revoked_pem = match file.revoked {
            Some(path) => read(&directory.join(path))?,
            None => Vec::new(),
        };
        let builder = Self::new().cluster(cluster).contact_points(file.contact_points);
        Ok(builder.identity(identity).revoked(revoked_pem))
    }

    /// Which cluster is meant. Nodes of another are refused.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, ClusterId, ConnectError};
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let error = builder.cluster(ClusterId(7)).connect().await.unwrap_err();
    /// assert!(matches!(error, ConnectError::Unreachable(_)));
    /// # Ok(()) });
    /// ```
    pub fn cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Nodes to ask for the others. If all are IPv4 addresses, only IPv4 is spoken.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::ClientBuilder;
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// // Any node will do: it tells of the others.
    /// let node = builder.clone().connect().await?.record().members[0].address;
    /// let client = builder.contact_points([node]).connect().await?;
    /// assert_eq!(client.record().members.len(), 1);
    /// # Ok(()) });
    /// ```
    pub fn contact_points(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.contact_points = addresses.into_iter().collect();
        self
    }

    /// By what client and cluster know each other.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, Identity};
    /// use std::{fs, path::Path};
    ///
    /// let directory = Path::new("../quoit/quoit-data/client");
    /// let identity = Identity {
    ///     authority_pem: fs::read(directory.join("authority.pem"))?,
    ///     certificate_pem: fs::read(directory.join("client.pem"))?,
    ///     key_pem: fs::read(directory.join("client.key"))?,
    /// };
    /// let client = ClientBuilder::from_directory(directory)?.identity(identity).connect().await?;
    /// assert_eq!(client.record().members.len(), 1);
    /// # Ok(()) });
    /// ```
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The authorities' lists of revoked certificates, PEM, as `quoit ca revoke` writes them: a node whose
    /// certificate is listed is not spoken to. Without one, and for authorities that have none, every
    /// certificate is good until it expires.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, ConnectError};
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let error = builder.revoked("no list").connect().await.unwrap_err();
    /// assert!(matches!(error, ConnectError::Identity(_)));
    /// # Ok(()) });
    /// ```
    pub fn revoked(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.revoked_pem = pem.into();
        self
    }

    /// When a request completes at the latest (5 s; a [`Table`](crate::Table) may have another).
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, ReadError};
    /// use std::time::Duration;
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let hasty = builder.request_timeout(Duration::from_micros(1)).connect().await?;
    /// let outcome = hasty.table("carts").await?.get("alice").await;
    /// assert!(matches!(outcome, Err(ReadError::Timeout { .. })));
    /// # Ok(()) });
    /// ```
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.profile.timeout = Some(timeout);
        self
    }

    /// How requests are carried out where their table's handle says nothing else.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, Level, Profile};
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let client = builder.profile(Profile::new().read_level(Level::One)).connect().await?;
    /// assert_eq!(client.table("carts").await?.levels(), (Level::One, Level::Quorum));
    /// # Ok(()) });
    /// ```
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile.or(&self.profile);
        self
    }

    /// Where this client stands: coordinators in its rack are asked first, then those in its
    /// datacenter, as long as they answer well.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, NodeId};
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let client = builder.zone("local", "r1").connect().await?;
    /// let reading = client.table("carts").await?.get("alice").await?;
    /// assert_eq!(reading.service.coordinator, NodeId(1));
    /// # Ok(()) });
    /// ```
    pub fn zone(mut self, datacenter: impl Into<String>, rack: impl Into<String>) -> Self {
        self.zone = Some(Zone { datacenter: datacenter.into(), rack: rack.into() });
        self
    }

    /// How many requests may be in flight at once (4,096); more are refused as `Overloaded`.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{ClientBuilder, ReadError};
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let carts = builder.in_flight_max(1).connect().await?.table("carts").await?;
    /// let (first, second) = tokio::join!(carts.get("alice"), carts.get("bob"));
    /// assert!(first.is_ok());
    /// assert_eq!(second, Err(ReadError::Overloaded { in_flight_max: 1 }));
    /// # Ok(()) });
    /// ```
    pub fn in_flight_max(mut self, count: usize) -> Self {
        self.in_flight_max = count.max(1);
        self
    }

    /// The client's name in the nodes' logs.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::ClientBuilder;
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let client = builder.name("nightly report").connect().await?;
    /// assert_eq!(client.record().members.len(), 1);
    /// # Ok(()) });
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Connects, and returns when the cluster record is known; a task of the current tokio runtime
    /// then keeps the connections.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::ClientBuilder;
    ///
    /// let builder = ClientBuilder::from_directory("../quoit/quoit-data/client")?;
    /// let client = builder.connect().await?;
    /// assert!(client.record().table("carts").is_some());
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// See [`ConnectError`]. Gives up after 5 s, and at once when every contact point is refused
    /// for a reason that will not pass by itself (a certificate, another cluster).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let cluster = self.cluster.ok_or(ConnectError::Missing("which cluster is meant"))?;
        let identity = self.identity.ok_or(ConnectError::Missing("its identity"))?;
        if self.contact_points.is_empty() {
            return Err(ConnectError::Missing("any contact point"));
        }
        let tls = tls::ClientTls::new(&identity, &self.revoked_pem)?;
        let endpoint = tls::endpoint(&self.contact_points).map_err(ConnectError::Socket)?;
        let configuration = Configuration {
            cluster,
            contact_points: self.contact_points,
            client: self.name,
            in_flight_max: self.in_flight_max,
            zone: self.zone,
        };
        let clock = Clock::start();
        let (commands, commands_taken) = mpsc::channel(self.in_flight_max);
        let (known, known_seen) = watch::channel(Known::default());
        let driver =
            Driver::new(configuration, seed()?, endpoint, tls, clock, commands_taken, known);
        tokio::spawn(driver.run());
        let inner = Inner::new(commands, known_seen, clock, self.in_flight_max, self.profile);
        let submission = inner
            .submit(Request::Record, None, &Profile::new().timeout(CONNECT_TIMEOUT))
            .map_err(ConnectError::from_session)?;
        match submission.outcome().await {
            Some(Ok(_)) => Ok(Client::new(inner)),
            Some(Err(error)) => Err(ConnectError::from_session(error)),
            None => Err(ConnectError::Unreachable(Trail::default())),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|source| ConnectError::File { path: path.to_owned(), source })
}

fn seed() -> Result<Seed, ConnectError> {
    let draw = || getrandom::u64().map_err(|error| ConnectError::Randomness(error.to_string()));
    Ok(Seed(draw()?, draw()?))
}

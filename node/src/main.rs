//! The `quoit` program: a node, a cluster for trying, certificates, and the client's commands.
//!
//! Exit codes, the same for all commands (those of clients: see `quoit_cli`):
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the key is absent (`get`) |
//! | 2 | the command line, the configuration or the input is wrong; nothing was done |
//! | 3 | it could not be done, or a node had to stop; it may succeed later |
//! | 4 | it is not known whether it is done |
//! | 5 | this client's role does not allow it; nothing was done |

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, CommandFactory, Parser, Subcommand};
use quoit_cli::{ClientCommand, ConnectionOptions, node_rows, render_nodes_table};
use quoit_client::{ClientBuilder, with_sources};
use quoit_node::authority::check_credentials;
use quoit_node::ca::{self, CaCommand, CaError};
use quoit_node::config::{Config, environment};
use quoit_node::restore::RestoreArguments;
use quoit_node::serve::{ServeOptions, check_files};
use quoit_node::stop::StopSignals;
use quoit_node::up::{Cluster, PreparedNode, READY_TIMEOUT, UpError, UpOptions, prepare};
use quoit_ring::{VnodeCount, VnodeCountError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The file of `quoit up`, and the directory that the client's commands look into.
const UP_DIRECTORY: &str = "quoit-data";

/// A leaderless, replicated key-value store.
#[derive(Debug, Parser)]
#[command(name = "quoit", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(UpArguments),
    Serve(ServeArguments),
    /// Make a cluster's authority and its certificates; renew, show and revoke them.
    #[command(subcommand)]
    Ca(CaCommand),
    #[command(flatten)]
    Client(ClientCommand),
    Restore(RestoreArguments),
    /// Write the man pages and shell completions, for packages.
    #[command(hide = true)]
    Manual {
        /// Where they are written.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Start a cluster on this host and stay until Ctrl-C.
///
/// The first time it makes the directory; later it finds the data again.
#[derive(Debug, Args)]
struct UpArguments {
    /// Where everything lies.
    #[arg(long, value_name = "DIR", default_value = UP_DIRECTORY)]
    dir: PathBuf,
    /// How many nodes [default: 3].
    #[arg(long, value_name = "COUNT")]
    nodes: Option<u16>,
    /// N, the replicas of each key [default: 3, or as many as there are nodes].
    #[arg(long, value_name = "COUNT")]
    rf: Option<u8>,
    /// The first node's UDP port; HTTP is 100 above [default: 7101].
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Q, the arcs that the ring is cut into: a power of two [default: 1024].
    #[arg(long, value_name = "COUNT", value_parser = parse_vnodes)]
    vnodes: Option<VnodeCount>,
}

/// Run a node.
///
/// SIGTERM stops it: it finishes what is in flight and says goodbye. SIGHUP has it read its
/// configuration and certificates again, unless it was started in a terminal.
#[derive(Debug, Args)]
struct ServeArguments {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only check the configuration and the certificates, and print all settings.
    #[arg(long)]
    check: bool,
    /// With --check: print nothing where all is well.
    #[arg(long, requires = "check")]
    quiet: bool,
    /// Stop when standard input ends, as `quoit up` wants it.
    #[arg(long)]
    stop_on_stdin_close: bool,
}

fn parse_vnodes(text: &str) -> Result<VnodeCount, String> {
    let count: u32 = text.parse().map_err(|error| format!("{error}"))?;
    VnodeCount::new(count).map_err(|error: VnodeCountError| error.to_string())
}

/// An error on its way to the exit code.
enum Failure {
    /// Exit code 2.
    BadInput(Box<dyn Error>),
    /// Exit code 3.
    NotDone(Box<dyn Error>),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Client(command) => return quoit_cli::run(&command, &arguments.connection),
        Command::Restore(options) => {
            return quoit_node::restore::run(&options, &arguments.connection);
        }
        Command::Up(options) => up(options),
        Command::Serve(options) => serve(&options),
        Command::Ca(command) => ca::run(&command, arguments.connection.json).map_err(ca_failure),
        Command::Manual { out } => {
            quoit_node::manual::write(Arguments::command(), &out).map_err(not_done)
        }
    };
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::BadInput(error)) => (error, 2),
        Err(Failure::NotDone(error)) => (error, 3),
    };
    eprintln!("quoit: {}", with_sources(&*error));
    ExitCode::from(code)
}

fn serve(options: &ServeArguments) -> Result<(), Failure> {
    let config = Config::load(&options.config, &environment()).map_err(bad_input)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(not_done)?;
    check_credentials(&config.tls, config.cluster.id, config.node.id, now).map_err(bad_input)?;
    check_files(&config).map_err(bad_input)?;
    if options.check {
        if !options.quiet {
            // Whoever reads it may have read enough.
            let _ = std::io::stdout().write_all(config.to_toml().as_bytes());
        }
        return Ok(());
    }
    let log_level = quoit_node::log::start(&config.log).map_err(bad_input)?;
    #[cfg(feature = "planted-bugs")]
    plant()?;
    let serve_options = ServeOptions {
        config_path: options.config.clone(),
        log_level: Some(log_level),
        stop_on_stdin_close: options.stop_on_stdin_close,
    };
    quoit_node::serve::run(config, serve_options).map_err(not_done)
}

/// Makes this node faulty, as PLANTED_BUG says.
#[cfg(feature = "planted-bugs")]
fn plant() -> Result<(), Failure> {
    use quoit_storage::planted::{PlantedBug, plant_everywhere};

    let Ok(name) = std::env::var("PLANTED_BUG") else { return Ok(()) };
    let bug = PlantedBug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    let bug =
        bug.ok_or_else(|| bad_input(format!("PLANTED_BUG is one of {:?}", PlantedBug::ALL)))?;
    tracing::warn!(?bug, "this node is faulty on purpose");
    plant_everywhere(bug);
    Ok(())
}

fn up(arguments: UpArguments) -> Result<(), Failure> {
    let options = UpOptions {
        directory: arguments.dir,
        nodes: arguments.nodes,
        replication: arguments.rf,
        base_port: arguments.base_port,
        vnodes: arguments.vnodes,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(not_done)?;
    runtime.block_on(run_cluster(&options))
}

async fn run_cluster(options: &UpOptions) -> Result<(), Failure> {
    let prepared = prepare(options).map_err(up_failure)?;
    let program = std::env::current_exe().map_err(not_done)?;
    let mut signals = StopSignals::listen(false).map_err(not_done)?;
    if prepared.is_new {
        eprintln!("made cluster {} in {}", prepared.cluster, options.directory.display());
    }
    let mut cluster = Cluster::start(prepared, &program).await.map_err(up_failure)?;
    eprintln!("starting {} nodes ...", cluster.nodes().len());
    let report = |notice| eprintln!("{notice}");
    let ready = tokio::select! {
        ready = cluster.wait_ready(READY_TIMEOUT) => ready,
        reason = signals.next() => {
            eprintln!("{reason}");
            cluster.stop(report).await;
            return Ok(());
        }
    };
    let result = match ready {
        Ok(()) => {
            introduce(&cluster, options).await;
            tokio::select! {
                error = cluster.watch(report) => Err(up_failure(error)),
                reason = signals.next() => {
                    eprintln!("{reason}");
                    Ok(())
                }
            }
        }
        Err(error) => Err(up_failure(error)),
    };
    cluster.stop(report).await;
    result
}

/// The table of nodes, as a client sees the cluster, and what to try.
async fn introduce(cluster: &Cluster, options: &UpOptions) {
    let builder = ClientBuilder::from_directory(cluster.client_directory());
    let connected = match builder {
        Ok(builder) => builder.connect().await,
        Err(error) => Err(error),
    };
    match connected {
        Ok(client) => {
            let rows = node_rows(&client.record(), |_| "serving".to_owned());
            print!("{}", render_nodes_table(&rows));
            client.close().await;
            let processes = cluster.process_ids();
            let processes: Vec<String> =
                processes.map(|(id, process)| format!("{id} is process {process}")).collect();
            println!("{}", processes.join(", "));
            let gives_data = |node: &&PreparedNode| node.config.http.data;
            let addresses: Vec<String> = cluster
                .nodes()
                .iter()
                .filter(gives_data)
                .map(|node| format!("http://{}/v1/tables", node.config.http.listen))
                .collect();
            if !addresses.is_empty() {
                println!("data by HTTP: {}", addresses.join(", "));
            }
            if let Some(node) = cluster.nodes().iter().find(|node| node.config.http.page) {
                println!("to look at: http://{}/", node.config.http.listen);
            }
        }
        Err(error) => {
            eprintln!("the nodes serve, but no client can connect: {}", with_sources(&error))
        }
    }
    let mut program = std::env::args().next().unwrap_or_else(|| "quoit".to_owned());
    if options.directory != std::path::Path::new(UP_DIRECTORY) {
        program = format!("{program} --client {}", cluster.client_directory().display());
    }
    let first = cluster.nodes().first().filter(|node| node.config.http.data);
    let by_http = first.map_or_else(String::new, |node| {
        format!("  curl http://{}/v1/tables/carts/keys/alice\n", node.config.http.listen)
    });
    println!(
        "\nTry in another terminal:\n  {program} tables create carts\n  {program} put carts alice \
         '3 apples'\n  {program} get carts alice\n{by_http}\nCtrl-C stops all nodes; the data is kept."
    );
}

fn bad_input(error: impl Into<Box<dyn Error>>) -> Failure {
    Failure::BadInput(error.into())
}

fn not_done(error: impl Into<Box<dyn Error>>) -> Failure {
    Failure::NotDone(error.into())
}

fn ca_failure(error: CaError) -> Failure {
    if error.is_bad_input() { bad_input(error) } else { not_done(error) }
}

fn up_failure(error: UpError) -> Failure {
    match error {
        UpError::Option(_)
        | UpError::Contradiction { .. }
        | UpError::NotOurs { .. }
        | UpError::Manifest { .. }
        | UpError::Config(_) => bad_input(error),
        UpError::Authority(error) => ca_failure(error.into()),
        UpError::Busy(_)
        | UpError::PortInUse { .. }
        | UpError::Listen { .. }
        | UpError::File { .. }
        | UpError::Start { .. }
        | UpError::Died { .. }
        | UpError::NotReady { .. }
        | UpError::AllDied(_) => not_done(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_node_or_a_client_is_named() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("quoit ca issue --dir a --out b --node n1").is_ok());
        assert!(parse("quoit ca issue --dir a --out b --for-client").is_ok());
        assert!(parse("quoit ca issue --dir a --for-client shop --out b").is_ok());
        assert!(parse("quoit ca issue --dir a --for-client --role admin --out b").is_ok());
        assert!(parse("quoit ca issue --dir a --for-client --role root --out b").is_err());
        assert!(parse("quoit ca issue --dir a --for-client --table t --out b").is_err());
        assert!(parse("quoit ca issue --dir a --node n1 --role admin --out b").is_err());
        assert!(parse("quoit ca issue --dir a --out b").is_err());
        assert!(parse("quoit ca issue --dir a --out b --for-client --node n1").is_err());
        assert!(parse("quoit up --vnodes 1000").is_err());
    }
}

//! When a process is to stop: a signal, or the end of its standard input where it was told to
//! watch that. `quoit up` holds the other end of its nodes' inputs, so that they stop with it even
//! if it is killed.

use std::fmt;
use std::io::{self, IsTerminal, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Why the process is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, as systemd and `quoit up` send it.
    Terminate,
    /// The terminal is gone; or, where there never was one, the files are to be read again.
    Hangup,
    /// Standard input has ended.
    InputClosed,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "Ctrl-C",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "the terminal was closed",
            Self::InputClosed => "standard input was closed",
        })
    }
}

/// Listens for what ends the process. From its making on, signals no longer end it by themselves.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    input_closed: Option<oneshot::Receiver<()>>,
}

impl StopSignals {
    /// Begins to listen. With `watch_stdin`, the end of standard input counts too; what comes
    /// before the end is read and thrown away.
    ///
    /// # Errors
    /// Where the system does not allow it. Nothing changed then.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn listen(watch_stdin: bool) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            input_closed: if watch_stdin { Some(watch_input()?) } else { None },
        })
    }

    /// Returns when the process is to stop; may be called again for the next time. Nothing is lost
    /// if it is dropped before it returns.
    pub async fn next(&mut self) -> StopReason {
        let closed = async {
            match &mut self.input_closed {
                Some(closed) => {
                    let _ = closed.await;
                }
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            _ = self.interrupt.recv() => StopReason::Interrupt,
            _ = self.terminate.recv() => StopReason::Terminate,
            _ = self.hangup.recv() => StopReason::Hangup,
            () = closed => StopReason::InputClosed,
        };
        if reason == StopReason::InputClosed {
            self.input_closed = None;
        }
        reason
    }
}

/// Whether a hangup says that files are to be read again, as service managers and scripts mean it.
/// To a program that was started in a terminal it says that the terminal is gone.
pub fn hangup_means_reload() -> bool {
    !io::stdin().is_terminal()
}

/// A thread of its own, since a runtime waits for its blocking reads before it ends.
fn watch_input() -> io::Result<oneshot::Receiver<()>> {
    let (ended, closed) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut ignored = [0; 4_096];
        let mut input = io::stdin().lock();
        loop {
            match input.read(&mut ignored) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = ended.send(());
    })?;
    Ok(closed)
}

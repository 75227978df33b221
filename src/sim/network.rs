//! The port of a simulator: accepting connections, and outages of the network.
//!
//! Invariants: an outage ends every connection that is open, and the same port comes back when it is over; dropping the
//! future of [`serve`] closes the port and every connection.

use std::{fmt, io, net::SocketAddr, str::FromStr, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};

/// How long the port may stay taken after an outage.
const REBIND: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// The most connections that an outage keeps waiting.
const WAITING: usize = 1024;

/// How the network fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outage {
    /// The port is closed: new connections are refused.
    Refuse,
    /// New connections are reset as soon as they are accepted.
    Reset,
    /// New connections are accepted, and nothing is ever said on them.
    Deaf,
}

const OUTAGES: [(&str, Outage); 3] = [
    ("refuse", Outage::Refuse),
    ("reset", Outage::Reset),
    ("deaf", Outage::Deaf),
];

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = OUTAGES.iter().find(|(_, outage)| outage == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// The text is no outage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no outage; there are refuse, reset and deaf")]
pub struct OutageError(String);

impl FromStr for Outage {
    type Err = OutageError;

    fn from_str(text: &str) -> Result<Self, OutageError> {
        OUTAGES
            .into_iter()
            .find_map(|(name, outage)| (name == text).then_some(outage))
            .ok_or_else(|| OutageError(text.to_owned()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Down { how: Outage, until: Option<Instant> },
}

/// Whether a simulator can be reached.
#[derive(Debug)]
pub(super) struct Network(watch::Sender<State>);

impl Default for Network {
    fn default() -> Self {
        Self(watch::channel(State::Up).0)
    }
}

impl Network {
    /// Begins an outage, which ends by itself after a time or with [`Network::up`].
    pub(super) fn down(&self, how: Outage, time: Option<Duration>) {
        let until = time.and_then(|time| Instant::now().checked_add(time));
        self.0.send_replace(State::Down { how, until });
    }

    /// Ends an outage.
    pub(super) fn up(&self) {
        self.0.send_replace(State::Up);
    }
}

/// Binds a port so that it can be bound again right after an outage.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    hold(address)?.listen(BACKLOG)
}

/// Takes a port without listening on it: connections are refused, and nobody else gets it.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves every connection with `serve_one`, outages apart. Ends only when the port does not come back.
pub(super) async fn serve<F>(
    network: &Network,
    listener: TcpListener,
    address: SocketAddr,
    serve_one: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut state = network.0.subscribe();
    let mut listener = Some(listener);
    loop {
        let Some(up) = listener.take() else {
            tracing::error!(%address, "the simulator cannot have its port back");
            return;
        };
        let how = {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    biased;
                    how = down(&mut state) => break how,
                    accepted = up.accept() => match accepted {
                        Ok((stream, _peer)) => {
                            // Small answers must not wait for more.
                            if let Err(error) = stream.set_nodelay(true) {
                                tracing::debug!(%error, "a connection of the simulator has no TCP_NODELAY");
                            }
                            connections.spawn(serve_one(stream));
                        }
                        // Out of descriptors: the ones in use will end.
                        Err(error) => {
                            tracing::debug!(%error, "the simulator could not accept a connection");
                            time::sleep(Duration::from_millis(20)).await;
                        }
                    },
                    Some(_ended) = connections.join_next() => {}
                }
            }
        };
        listener = if how == Outage::Refuse {
            drop(up);
            let held = hold(address);
            until_up(network, &mut state).await;
            match held.and_then(|held| held.listen(BACKLOG)) {
                Ok(listener) => Some(listener),
                Err(_taken) => rebind(address).await,
            }
        } else {
            let mut waiting = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    () = until_up(network, &mut state) => break,
                    accepted = up.accept() => match accepted {
                        Ok((stream, _peer)) if how == Outage::Reset => reset(&stream),
                        Ok((stream, _peer)) if waiting.len() < WAITING => waiting.push(stream),
                        Ok(_too_many) => {}
                        Err(_problem) => time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
            Some(up)
        };
    }
}

/// The connection ends with RST when it is dropped.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection of the simulator could not be reset");
    }
}

/// Waits for an outage.
async fn down(state: &mut watch::Receiver<State>) -> Outage {
    loop {
        if let State::Down { how, .. } = *state.borrow_and_update() {
            return how;
        }
        if state.changed().await.is_err() {
            // The sender lives as long as the server, which ends by being dropped.
            std::future::pending::<()>().await;
        }
    }
}

/// Waits for the end of an outage. Cancel-safe.
async fn until_up(network: &Network, state: &mut watch::Receiver<State>) {
    loop {
        let now = *state.borrow_and_update();
        let State::Down { until, .. } = now else {
            return;
        };
        let over = async {
            match until {
                Some(until) => time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                return;
            },
            () = over => {
                // Another outage may have begun at this very moment.
                network.0.send_if_modified(|now| {
                    let ended = matches!(now, State::Down { until: Some(at), .. } if *at <= Instant::now());
                    if ended {
                        *now = State::Up;
                    }
                    ended
                });
            }
        }
    }
}

async fn rebind(address: SocketAddr) -> Option<TcpListener> {
    let deadline = Instant::now() + REBIND;
    loop {
        match bind(address) {
            Ok(listener) => return Some(listener),
            Err(_taken) if Instant::now() < deadline => {
                time::sleep(Duration::from_millis(20)).await;
            }
            Err(_taken) => return None,
        }
    }
}

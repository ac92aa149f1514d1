//! The other end of the API: HTTP/1.1 over the Unix socket, one request per connection.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::views::Failure;

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reaches the daemon behind one socket.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket's path.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether a daemon has the socket: it removes it as the last thing it does.
    pub(super) fn is_held(&self) -> bool {
        self.socket.exists()
    }

    /// What a path shows.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.exchange(Method::GET, path, Bytes::new())
    }

    /// Does what a path does. `body` is sent as JSON.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.exchange(Method::POST, path, serde_json::to_vec(body)?.into())
    }

    fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        runtime()?.block_on(async {
            let response = self.send(method, path, "application/json", body).await?;
            let octets = response.into_body().collect().await.map_err(|error| self.cut(&error))?;
            serde_json::from_slice(&octets.to_bytes()).map_err(|error| self.unreadable(&error))
        })
    }

    /// Hands each element of a list to `each` as it arrives; the list is never held whole.
    pub(super) fn each<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            let response =
                self.send(Method::GET, path, "application/x-ndjson", Bytes::new()).await?;
            let mut body = response.into_body();
            let mut rest: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.cut(&error))?;
                let Some(octets) = frame.data_ref() else { continue };
                rest.extend_from_slice(octets);
                let Some(end) = rest.iter().rposition(|octet| *octet == b'\n') else { continue };
                let lines: Vec<u8> = rest.drain(..=end).collect();
                for line in lines.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
                    each(serde_json::from_slice(line).map_err(|error| self.unreadable(&error))?)?;
                }
            }
            Ok(())
        })
    }

    /// Sends a request; gives the answer if it is one of success.
    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.cut(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "routelet")
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request))
            .await
            .map_err(|_| {
                anyhow!(
                    "routelet at {} has not answered for {} s: see its log, or `routelet status`",
                    self.socket.display(),
                    PATIENCE.as_secs()
                )
            })?
            .map_err(|error| self.cut(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let octets = response.into_body().collect().await.map_err(|error| self.cut(&error))?;
        match serde_json::from_slice::<Failure>(&octets.to_bytes()) {
            Ok(Failure { error, hint: Some(hint) }) => bail!("{error}: {hint}"),
            Ok(Failure { error, hint: None }) => bail!("{error}"),
            Err(_) => bail!("routelet at {} answered {status}", self.socket.display()),
        }
    }

    fn unreachable(&self, error: &std::io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match error.kind() {
            ErrorKind::PermissionDenied => anyhow!(
                "no permission to use {socket}: run the command as root or as the user that routelet runs as"
            ),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
                "cannot reach routelet at {socket}: is routelet running? start it with `routelet run --config FILE` or name its socket with --socket"
            ),
            _ => {
                anyhow!("cannot reach routelet at {socket}: {error}: name its socket with --socket")
            }
        }
    }

    // The error's own text only: as a cause it could be taken for a closed pipe of ours.
    fn cut(&self, error: &hyper::Error) -> anyhow::Error {
        anyhow!(
            "routelet at {} ended the connection ({error}): it may be stopping, see its log",
            self.socket.display()
        )
    }

    fn unreadable(&self, error: &serde_json::Error) -> anyhow::Error {
        anyhow!(
            "routelet at {} answered what this command cannot read ({error}): compare `routelet version`",
            self.socket.display()
        )
    }
}

/// A runtime for one exchange.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// `text` as one segment of a path or one value of a query.
pub(super) fn encode(text: &str) -> String {
    text.bytes()
        .map(|octet| match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(octet).to_string()
            }
            _ => format!("%{octet:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn anything_fits_in_a_path() {
        assert_eq!(encode("tor-1"), "tor-1");
        assert_eq!(encode("a b/c?é%"), "a%20b%2Fc%3F%C3%A9%25");
    }
}

//! A TCP connection between two pods that is never idle: a number goes over it every 10 ms and comes
//! back. What it notices of an outage: a stall, as long as retransmissions take, or its end.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use routelet::lab::netns::Netns;
use routelet::lab::now;

const PORT: u16 = 7000;
const INTERVAL: Duration = Duration::from_millis(10);

/// A connection at work.
#[derive(Debug)]
pub struct TcpFlow {
    stop: Arc<AtomicBool>,
    client: JoinHandle<FlowReport>,
    server: JoinHandle<()>,
}

/// What it noticed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlowReport {
    /// Numbers sent.
    pub sent: u64,
    /// Numbers that came back, in order.
    pub echoed: u64,
    /// The longest time between two of them.
    pub longest_stall: Duration,
    /// How it ended before its time.
    pub broken: Option<String>,
}

impl fmt::Display for FlowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} echoed, longest stall {} ms", self.echoed, self.sent, {
            self.longest_stall.as_millis()
        })?;
        match &self.broken {
            Some(words) => write!(f, ", broken: {words}"),
            None => Ok(()),
        }
    }
}

impl TcpFlow {
    /// Connects `from` with `to` at `address`, and begins.
    ///
    /// # Errors
    /// If they cannot be connected.
    pub fn start(from: &Netns, to: &Netns, address: IpAddr) -> anyhow::Result<Self> {
        let at = SocketAddr::new(address, PORT);
        let listener = to.run(|| TcpListener::bind(at)).context("cannot listen in the pod")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stream = from
            .run(|| TcpStream::connect_timeout(&at, Duration::from_secs(5)))
            .context("cannot connect the pods")?;
        let (accepted, _) = listener.accept().context("cannot accept in the pod")?;
        let server = std::thread::spawn(move || echo(accepted));
        let client = std::thread::spawn({
            let stop = stop.clone();
            move || exchange(stream, &stop)
        });
        Ok(Self { stop, client, server })
    }

    /// Ends it, gives what is under way half a second, and reports.
    #[must_use]
    pub fn stop(self) -> FlowReport {
        self.stop.store(true, Ordering::Relaxed);
        let report = self.client.join().unwrap_or_default();
        let _ = self.server.join();
        report
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // A client that has gone away for good would otherwise be waited for.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(300)));
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) if stream.write_all(&buffer[..read]).is_err() => return,
            Ok(_) => {}
            // Also after a stop of the whole machine, where there is a timeout.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn exchange(mut stream: TcpStream, stop: &AtomicBool) -> FlowReport {
    let mut report = FlowReport::default();
    let _ = stream.set_nodelay(true);
    let _ = stream.set_write_timeout(Some(Duration::from_millis(5)));
    let mut received = Vec::new();
    let mut last = now();
    let mut next = last;
    let mut deadline = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            let until = *deadline.get_or_insert_with(|| now() + Duration::from_millis(500));
            if report.echoed == report.sent || now() >= until {
                break;
            }
        } else if now() >= next {
            // Eight octets fit or do not: a full buffer is an outage, and they are not sent.
            match stream.write(&report.sent.to_be_bytes()) {
                Ok(8) => report.sent += 1,
                Ok(part) => report.broken = Some(format!("{part} octets taken of 8")),
                Err(error) if waits(error.kind()) => {}
                Err(error) => report.broken = Some(error.to_string()),
            }
            next += INTERVAL;
        }
        let wait = next.saturating_duration_since(now()).max(Duration::from_millis(1));
        let _ = stream.set_read_timeout(Some(wait.min(INTERVAL)));
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => report.broken = Some("closed".to_owned()),
            Ok(read) => {
                received.extend_from_slice(&buffer[..read]);
                let whole = received.len() / 8 * 8;
                for number in received.drain(..whole).collect::<Vec<_>>().chunks_exact(8) {
                    if number != report.echoed.to_be_bytes() {
                        report.broken = Some(format!("{number:?} instead of {}", report.echoed));
                    }
                    report.echoed += 1;
                }
                report.longest_stall = report.longest_stall.max(now().duration_since(last));
                last = now();
            }
            Err(error) if waits(error.kind()) => {}
            Err(error) => report.broken = Some(error.to_string()),
        }
        if report.broken.is_some() {
            break;
        }
    }
    report.longest_stall = report.longest_stall.max(now().duration_since(last));
    report
}

fn waits(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

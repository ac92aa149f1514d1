//! Panics: never shown as such to a user, never survived by the daemon.

use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tokio::sync::mpsc;

/// Where the daemon listens for panics, once it runs.
static DAEMON: OnceLock<mpsc::Sender<String>> = OnceLock::new();

/// From now on a panic is one line on standard error that says what to do. In the daemon it also
/// ends the process.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let words = words(panic);
        if let Some(daemon) = DAEMON.get() {
            tracing::error!(reason = %words, "internal error: this is a bug, please report it with this line");
            // Full: a panic is on its way already, and one is enough.
            let _ = daemon.try_send(words);
        } else {
            use std::io::Write;
            let _ = writeln!(
                std::io::stderr(),
                "routelet: internal error ({words}): this is a bug, please report it with this line"
            );
        }
    }));
}

/// From now on panics come out of the receiver, whichever thread or task they are in.
pub fn watch_panics() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    let _ = DAEMON.set(sender);
    receiver
}

/// What happened, and where.
fn words(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .replace('\n', " ");
    match panic.location() {
        Some(place) => format!("{message}, at {}:{}", place.file(), place.line()),
        None => message,
    }
}

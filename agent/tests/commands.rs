//! The binary as a user meets it: help, exit codes, closed pipes.

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn routelet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_routelet"));
    command.args(arguments).env_remove("ROUTELET_SOCKET").env_remove("ROUTELET_CONFIG");
    command
}

fn output(arguments: &[&str]) -> Output {
    routelet(arguments).output().unwrap()
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).unwrap()
}

#[test]
fn help_lists_every_command() {
    let help = output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = text(&help.stdout);
    for command in [
        "run",
        "peers",
        "peer",
        "routes",
        "status",
        "explain",
        "reset",
        "disable",
        "enable",
        "reload",
        "stop",
        "check",
        "plan",
        "decode",
        "lab",
        "completion",
        "version",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing in\n{help}");
        let own = output(&[command, "--help"]);
        assert_eq!(own.status.code(), Some(0), "{command}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["peerz"][..],
        &[],
        &["run"],
        &["routes", "--received"],
        &["routes", "--received", "--advertised", "--peer", "x"],
        &["peers", "-o", "xml"],
    ] {
        let wrong = output(arguments);
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}");
        assert!(wrong.stdout.is_empty() && !wrong.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn errors_are_one_line_and_exit_code_1() {
    let failed = output(&["peers", "--socket", "/nonexistent/api.sock"]);
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(
        text(&failed.stderr),
        "routelet: cannot reach routelet at /nonexistent/api.sock: is routelet running? start it with `routelet run --config FILE` or name its socket with --socket\n"
    );
    let failed = output(&["run", "--config", "/nonexistent/node.yaml"]);
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(text(&failed.stderr).lines().count(), 1, "{}", text(&failed.stderr));
    let failed = output(&["run", "--config", "/nonexistent/node.yaml", "--log-format", "json"]);
    let line: serde_json::Value = serde_json::from_slice(&failed.stderr).unwrap();
    assert_eq!((failed.status.code(), &line["message"]), (Some(1), &"cannot start".into()));
    let failed = output(&["run", "--config", "/dev/null", "--log-level", "loud=very"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("is not a log level"), "{}", text(&failed.stderr));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = routelet(&["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = output(&["completion", shell]);
        assert_eq!(script.status.code(), Some(0));
        assert!(text(&script.stdout).contains("explain"), "{shell}");
    }
}

#[test]
fn a_configuration_can_come_from_standard_input() {
    use std::io::Write;
    let mut child = routelet(&["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"nodde: {}\n").unwrap();
    let checked = child.wait_with_output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked.stderr).contains("standard-input:1:1"), "{}", text(&checked.stderr));
}

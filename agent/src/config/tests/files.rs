use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

const CONFIG: &str = "node: {name: a, addresses: [10.0.0.1/24]}\n";

fn failure(path: &Path) -> String {
    load(path).unwrap_err().to_string()
}

#[test]
fn a_file_that_cannot_be_read_is_named_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let path = at.join("none.yaml");
    assert_eq!(failure(&path), format!("{}: there is no such file", path.display()));
    assert_eq!(failure(at), format!("{} is a directory; name the file in it", at.display()));
    let path = at.join("latin.yaml");
    fs::write(&path, b"node:\n  name: \xe9\n").unwrap();
    assert_eq!(failure(&path), format!("{}:2: the file is not UTF-8 text", path.display()));
    let path = at.join("large.yaml");
    fs::write(&path, vec![b'#'; 8 * 1024 * 1024 + 1]).unwrap();
    assert_eq!(failure(&path), format!("{} is larger than 8388608 octets", path.display()));
}

#[test]
fn a_password_comes_from_beside_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.yaml");
    let key = directory.path().join("key");
    let text = "peers: [{name: p, peerIP: 10.0.0.2, asNumber: 7, password: {file: key}}]";
    fs::write(&path, format!("{CONFIG}{text}")).unwrap();
    let place = format!("error: {}:2:67: peers[p].password.file: ", path.display());
    let shown = key.display();
    let expect = |words: &str| {
        assert_eq!(failure(&path), format!("{place}{words}"));
    };
    expect(&format!("{shown}: there is no such file"));
    fs::write(&key, "\n").unwrap();
    expect(&format!("{shown} is empty; it must hold the password"));
    fs::write(&key, "x".repeat(81)).unwrap();
    expect(&format!("the password in {shown} has 81 octets; TCP MD5 takes at most 80"));
    fs::write(&key, "hunter2\r\n").unwrap();
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.files, [path, key]);
    let password = peer(&loaded.config, "p").password.clone().unwrap();
    assert_eq!(&*password.0, b"hunter2");
    assert!(!format!("{:?}", loaded.config).contains("hunter2"));
}

/// Longer than the quiet time by far: the machine that tests may be busy.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_written_a_replaced_and_a_removed_file_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.yaml");
    fs::write(&path, CONFIG).unwrap();
    let mut watcher = ConfigWatcher::new(&path);
    fs::write(&path, "# written in place").unwrap();
    timeout(SOON, watcher.changed()).await.expect("written in place");
    let other = directory.path().join(".node.yaml.swp");
    fs::write(&other, "# replaced").unwrap();
    fs::rename(&other, &path).unwrap();
    timeout(SOON, watcher.changed()).await.expect("replaced");
    fs::remove_file(&path).unwrap();
    timeout(SOON, watcher.changed()).await.expect("removed");
}

#[tokio::test]
async fn the_swapped_link_of_a_config_map_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (version, text) in [("1", "# one"), ("2", "# two")] {
        fs::create_dir(at.join(version)).unwrap();
        fs::write(at.join(version).join("node.yaml"), text).unwrap();
    }
    symlink("1", at.join("..data")).unwrap();
    symlink("..data/node.yaml", at.join("node.yaml")).unwrap();
    let mut watcher = ConfigWatcher::new(&at.join("node.yaml"));
    symlink("2", at.join("..data_tmp")).unwrap();
    fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    timeout(SOON, watcher.changed()).await.expect("the link was swapped");
}

#[tokio::test]
async fn a_secret_is_watched_too_and_neighbours_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.yaml");
    let key = secrets.path().join("key");
    fs::write(&path, CONFIG).unwrap();
    fs::write(&key, "one").unwrap();
    let mut watcher = ConfigWatcher::new(&path);
    watcher.watch([path.clone(), key.clone()]);
    // Another file, and the same content written again: nothing to reload.
    fs::write(directory.path().join("other"), "x").unwrap();
    fs::write(&path, CONFIG).unwrap();
    let early = timeout(Duration::from_secs(2), watcher.changed()).await;
    assert!(early.is_err(), "nothing has changed");
    fs::write(&key, "two").unwrap();
    timeout(SOON, watcher.changed()).await.expect("the secret has changed");
}

#[tokio::test]
async fn a_change_is_not_missed_by_a_waiter_that_was_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.yaml");
    fs::write(&path, CONFIG).unwrap();
    let mut watcher = ConfigWatcher::new(&path);
    fs::write(&path, "# changed").unwrap();
    // Dropped while it waits for quiet.
    assert!(timeout(Duration::from_millis(200), watcher.changed()).await.is_err());
    timeout(SOON, watcher.changed()).await.expect("the change is still seen");
}

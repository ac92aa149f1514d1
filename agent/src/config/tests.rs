//! The configuration as a whole: a file in, a [`Config`] or its errors out.

use super::*;

/// Reads `text` on a host called `host`, without any password.
fn read(text: &str) -> Result<Config, ConfigError> {
    parse("f.yaml", text, Some("host"), &|_| Err("there is no such file".to_owned()))
}

#[test]
fn an_empty_file_says_what_is_needed() {
    let error = read("").unwrap_err().to_string();
    assert!(error.starts_with("error: f.yaml: node.addresses: is missing"), "{error}");
}

#[test]
fn one_address_is_enough() {
    let config = read("node: {addresses: [10.0.0.1/24]}").unwrap();
    assert_eq!(config.node_name, "host");
    assert_eq!(config.listen, ["10.0.0.1:179".parse().unwrap()]);
}

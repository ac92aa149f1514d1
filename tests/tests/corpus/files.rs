//! The corpus on disk: its index, its messages, and the other decoders' outputs.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::read::GzDecoder;
use routelet_proto::{DecodeContext, FamilySet, Message, MessageError, SessionKind, Update};
use serde_json::Value;

/// The opened corpus.
pub struct Corpus {
    folder: PathBuf,
    pub messages: Vec<Entry>,
}

/// One message with what is known about it.
pub struct Entry {
    pub id: String,
    pub octets: Bytes,
    /// Its line of the index.
    pub facts: Value,
}

impl Corpus {
    /// # Errors
    /// Why there is none.
    pub fn open() -> Result<Self, String> {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
        let folder = env::var_os("ROUTELET_CORPUS").map_or(default, PathBuf::from);
        let index = folder.join("index.jsonl");
        let text = fs::read_to_string(&index)
            .map_err(|error| format!("no corpus: {}: {error}", index.display()))?;
        let messages = text.lines().map(|line| Entry::read(&folder, line)).collect();
        Ok(Self { folder, messages })
    }

    /// The messages of `valid/`, `invalid/` or `disputed/`.
    pub fn of<'a>(&'a self, class: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.messages.iter().filter(move |entry| entry.text("file").starts_with(class))
    }

    /// tshark's decoding by id.
    pub fn tshark(&self) -> BTreeMap<String, Value> {
        let reader = BufReader::new(open(&self.folder.join("tshark.jsonl.gz")));
        let lines = reader.lines().map(|line| line.expect("readable"));
        lines
            .map(|line| {
                let value: Value = serde_json::from_str(&line).expect("JSON");
                (value["id"].as_str().expect("an id").to_owned(), value["bgp"].clone())
            })
            .collect()
    }

    /// The MRT files that have bgpdump's output beside them: name, octets, lines.
    pub fn mrt(&self) -> Vec<(String, Vec<u8>, Vec<String>)> {
        let folder = self.folder.join("mrt");
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).expect("the corpus has a folder mrt") {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
            let lines = folder.join(format!("{name}.bgpdump.gz"));
            if !lines.is_file() {
                continue;
            }
            let mut octets = Vec::new();
            open(&path).read_to_end(&mut octets).expect("readable");
            let lines = BufReader::new(open(&lines)).lines();
            files.push((name, octets, lines.map(|line| line.expect("readable")).collect()));
        }
        files.sort();
        files
    }
}

/// Opens a file, unpacked if its name says that it is packed.
fn open(path: &Path) -> Box<dyn Read> {
    let file = File::open(path).expect("the corpus is complete");
    if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    }
}

impl Entry {
    fn read(folder: &Path, line: &str) -> Self {
        let facts: Value = serde_json::from_str(line).expect("the index is JSON");
        let file = folder.join(facts["file"].as_str().expect("a file"));
        let text = fs::read_to_string(&file).expect("the corpus is complete");
        let octets = octets(text.trim());
        Self { id: facts["id"].as_str().expect("an id").to_owned(), octets, facts }
    }

    pub fn text(&self, key: &str) -> &str {
        self.facts[key].as_str().unwrap_or("")
    }

    /// Whether it has no routes but those of our families.
    pub fn only_our_families(&self) -> bool {
        let ours = |family: &Value| {
            family.as_str().is_some_and(|name| matches!(name, "ipv4 unicast" | "ipv6 unicast"))
        };
        self.facts["families"].as_array().is_none_or(|list| list.iter().all(ours))
    }

    /// What the session that it was captured from negotiated.
    pub fn context(&self, kind: SessionKind) -> DecodeContext {
        DecodeContext {
            four_octet_as: self.facts["as_size"] != 2,
            add_path: if self.facts["addpath"] == true { FamilySet::ALL } else { FamilySet::EMPTY },
            kind,
            ..DecodeContext::default()
        }
    }

    pub fn decode(&self, kind: SessionKind) -> Result<Message, MessageError> {
        Message::decode(&self.octets, &self.context(kind))
    }

    /// The UPDATE, if it is one and is accepted.
    pub fn update(&self, kind: SessionKind) -> Option<Update> {
        match self.decode(kind) {
            Ok(Message::Update(update)) => Some(update),
            _ => None,
        }
    }
}

/// Octets of hexadecimal digits.
pub fn octets(text: &str) -> Bytes {
    let digit = |character: u8| {
        char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).expect("hex")
    };
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

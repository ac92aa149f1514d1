//! `routelet decode`: what a captured BGP message says, or what is wrong with it.
//!
//! In: hexadecimal octets, from arguments or standard input, as captures and logs have them. Out:
//! each message in full, as text or one JSON object a line; for a malformed one the NOTIFICATION a
//! session would send, or the RFC 7606 treatment with its place. Nothing here needs a daemon.
//!
//! What always holds: the reading is the very one sessions use (`Message::decode`); only the raw
//! list of attributes, shown where something is wrong or passed over, is walked here.

use std::io::{BufRead, Write};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use routelet_proto::{
    DecodeContext, FamilySet, HEADER_LEN, Message, MessageError, MessageType, SessionKind,
    Treatment, Update, frame_length,
};

mod json;
mod text;

/// Decode BGP messages given in hexadecimal.
#[derive(Clone, Debug, clap::Args)]
pub struct DecodeArgs {
    /// Whole messages in hexadecimal, marker included; spaces, colons, commas and 0x are passed
    /// over. `-` reads standard input, one message or more a line
    #[arg(required = true, value_name = "HEX")]
    pub hex: Vec<String>,

    /// AS numbers have two octets in AS_PATH and AGGREGATOR (RFC 6793 was not negotiated)
    #[arg(long)]
    pub as2: bool,

    /// Prefixes carry path identifiers, in both families (RFC 7911)
    #[arg(long)]
    pub add_path: bool,

    /// The message is from an external peer: LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST are
    /// discarded, confederation segments malformed (RFC 7606)
    #[arg(long)]
    pub ebgp: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value_t = DecodeFormat::Text)]
    pub output: DecodeFormat,
}

/// How `routelet decode` prints.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum DecodeFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a message, a line each.
    Json,
}

/// Decodes and prints; whether every message was well formed.
///
/// Routes of families that this speaker does not carry do not count as malformed.
///
/// # Errors
/// Input that is no hexadecimal, with the position; input or output that fails.
pub fn run(
    args: &DecodeArgs,
    stdin: &mut dyn BufRead,
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    let context = args.context();
    let mut printer = Printer { format: args.output, number: 0, all_good: true };
    if args.hex == ["-"] {
        let mut line = String::new();
        for number in 1.. {
            line.clear();
            if stdin.read_line(&mut line).context("cannot read standard input")? == 0 {
                break;
            }
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let octets = parse_hex(content).with_context(|| format!("line {number}"))?;
            printer.print_all(octets.into(), &context, out)?;
        }
    } else {
        let octets = parse_hex(&args.hex.join(" "))?;
        printer.print_all(octets.into(), &context, out)?;
    }
    if printer.number == 0 {
        bail!("no octets given: pass a whole message in hexadecimal, from its marker on");
    }
    Ok(printer.all_good)
}

impl DecodeArgs {
    fn context(&self) -> DecodeContext {
        DecodeContext {
            four_octet_as: !self.as2,
            add_path: if self.add_path { FamilySet::ALL } else { FamilySet::EMPTY },
            kind: if self.ebgp { SessionKind::External } else { SessionKind::Internal },
            ..DecodeContext::default()
        }
    }
}

/// What one message came to, for the two ways to print it.
struct Decoded<'a> {
    /// Counted from 1 over all the input.
    number: usize,
    /// The message's octets, as many as there are.
    octets: &'a Bytes,
    kind: Option<MessageType>,
    outcome: Outcome<'a>,
    attributes: Vec<RawAttribute<'a>>,
}

enum Outcome<'a> {
    Message(&'a Message),
    Refused(&'a MessageError),
    /// The input ends within the message: how many octets it should have, if that is known.
    CutShort(Option<usize>),
}

impl Decoded<'_> {
    /// Whether a session would have taken it without complaint.
    fn well_formed(&self) -> bool {
        match self.outcome {
            Outcome::Message(Message::Update(update)) => {
                update.issues.iter().all(|issue| issue.treatment == Treatment::Ignore)
            }
            Outcome::Message(_) => true,
            Outcome::Refused(_) | Outcome::CutShort(_) => false,
        }
    }

    /// Attributes that the message does not show otherwise: all of them where something is wrong,
    /// else those that are passed over (optional, not transitive, unknown).
    fn raw_attributes(&self) -> impl Iterator<Item = &RawAttribute<'_>> {
        let all = match self.outcome {
            Outcome::Message(Message::Update(update)) => !update.issues.is_empty(),
            _ => true,
        };
        self.attributes.iter().filter(move |attribute| all || attribute.passed_over())
    }
}

struct Printer {
    format: DecodeFormat,
    number: usize,
    all_good: bool,
}

impl Printer {
    /// Prints every message in `octets`, until one whose header does not tell where it ends.
    fn print_all(
        &mut self,
        mut octets: Bytes,
        context: &DecodeContext,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        while !octets.is_empty() {
            match frame_length(&octets, context.extended_message) {
                Ok(Some(length)) if length <= octets.len() => {
                    let frame = octets.split_to(length);
                    match Message::decode(&frame, context) {
                        Ok(message) => self.print(&frame, Outcome::Message(&message), out)?,
                        Err(error) => self.print(&frame, Outcome::Refused(&error), out)?,
                    }
                }
                Ok(length) => return self.print(&octets, Outcome::CutShort(length), out),
                Err(error) => return self.print(&octets, Outcome::Refused(&error), out),
            }
        }
        Ok(())
    }

    fn print(
        &mut self,
        octets: &Bytes,
        outcome: Outcome<'_>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        self.number += 1;
        let kind = octets.get(HEADER_LEN - 1).and_then(|octet| MessageType::from_octet(*octet));
        let attributes = match kind {
            Some(MessageType::Update) => raw_attributes(octets),
            _ => Vec::new(),
        };
        let decoded = Decoded { number: self.number, octets, kind, outcome, attributes };
        self.all_good &= decoded.well_formed();
        match self.format {
            DecodeFormat::Text => text::write(&decoded, out)?,
            DecodeFormat::Json => {
                serde_json::to_writer(&mut *out, &json::value(&decoded))?;
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

/// An attribute as it stands in the message.
struct RawAttribute<'a> {
    /// Octets from the start of the header.
    offset: usize,
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// Whether its length is more than there is.
    cut: bool,
}

impl RawAttribute<'_> {
    /// Whether reading passes over it in silence (RFC 4271 §5).
    fn passed_over(&self) -> bool {
        use routelet_proto::attributes::code;
        let known = matches!(
            self.code,
            code::ORIGIN..=code::CLUSTER_LIST
                | code::MP_REACH_NLRI..=code::AS4_AGGREGATOR
                | code::LARGE_COMMUNITY
                | code::OTC
        );
        !known && self.flags & 0xc0 == 0x80
    }

    /// The flags in words.
    fn flag_names(&self) -> String {
        let names =
            [(0x80, "optional"), (0x40, "transitive"), (0x20, "partial"), (0x10, "extended")];
        let set: Vec<_> =
            names.iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, name)| *name).collect();
        if set.is_empty() { "none".to_owned() } else { set.join(" ") }
    }
}

/// Walks the Path Attributes field as far as it goes, without judging.
fn raw_attributes(octets: &[u8]) -> Vec<RawAttribute<'_>> {
    let length_at = |place: usize| {
        octets
            .get(place..place + 2)
            .map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])))
    };
    let Some(withdrawn) = length_at(HEADER_LEN) else { return Vec::new() };
    let start = HEADER_LEN + 4 + withdrawn;
    let Some(total) = length_at(start - 2) else { return Vec::new() };
    let end = (start + total).min(octets.len());
    let mut list = Vec::new();
    let mut at = start;
    while at + 3 <= end {
        let flags = octets[at];
        let (header, length) = if flags & 0x10 == 0 {
            (3, usize::from(octets[at + 2]))
        } else {
            (4, length_at(at + 2).unwrap_or(0))
        };
        let value_at = (at + header).min(end);
        let value_end = (value_at + length).min(end);
        list.push(RawAttribute {
            offset: at,
            flags,
            code: octets[at + 1],
            value: &octets[value_at..value_end],
            cut: at + header + length > end,
        });
        at = value_at + length;
    }
    list
}

/// Octets of a text of hexadecimal digits. Spaces, colons, commas, `0x` and `\x` are passed over.
fn parse_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len() / 2);
    let mut half = None;
    let mut digits = 0;
    let mut characters = text.chars().enumerate().peekable();
    while let Some((place, character)) = characters.next() {
        if character.is_whitespace() || matches!(character, ':' | ',') {
            continue;
        }
        if matches!(character, '0' | '\\')
            && half.is_none()
            && characters.next_if(|(_, next)| matches!(next, 'x' | 'X')).is_some()
        {
            continue;
        }
        let Some(digit) = character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()) else {
            bail!(
                "{character:?} at position {} is no hexadecimal digit: give octets as pairs of \
                 0-9 and a-f (spaces, colons, commas and 0x may stand between)",
                place + 1
            );
        };
        digits += 1;
        half = match half {
            None => Some(digit),
            Some(high) => {
                octets.push(high << 4 | digit);
                None
            }
        };
    }
    if half.is_some() {
        bail!(
            "{digits} hexadecimal digits are not whole octets: the last one, at position {}, has \
             no partner; was something cut off?",
            text.trim_end().chars().count()
        );
    }
    Ok(octets)
}

/// Whether an UPDATE says nothing at all.
fn is_empty(update: &Update) -> bool {
    update.withdrawn.is_empty() && update.announced.is_empty() && update.end_of_rib.is_none()
}

fn hex(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + 2 * octets.len());
    for octet in octets {
        let _ = write!(text, "{octet:02x}");
    }
    text
}

#[cfg(test)]
mod tests;

//! BGP octets by hand.

use std::net::Ipv4Addr;

pub const OPEN: u8 = 1;
pub const UPDATE: u8 = 2;
pub const NOTIFICATION: u8 = 3;
pub const KEEPALIVE: u8 = 4;
pub const ROUTE_REFRESH: u8 = 5;

/// A message with a right header.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    header(u16::try_from(body.len() + 19).expect("fits"), kind, body)
}

/// A message with any length field.
pub fn header(length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(length.to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    octets
}

pub fn keepalive() -> Vec<u8> {
    message(KEEPALIVE, &[])
}

/// The fields of an OPEN, each of which a case may spoil.
#[derive(Clone)]
pub struct OpenFields {
    pub version: u8,
    pub my_as: u16,
    pub hold_time: u16,
    pub identifier: Ipv4Addr,
    pub parameters: Vec<u8>,
}

impl OpenFields {
    /// An OPEN that is right, with the usual capabilities.
    pub fn usual(asn: u16, identifier: Ipv4Addr) -> Self {
        let capabilities = [
            capability(1, &[0, 1, 0, 1]),
            capability(1, &[0, 2, 0, 1]),
            capability(2, &[]),
            capability(70, &[]),
            capability(65, &u32::from(asn).to_be_bytes()),
        ];
        Self {
            version: 4,
            my_as: asn,
            hold_time: 90,
            identifier,
            parameters: parameter(2, &capabilities.concat()),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.version];
        body.extend(self.my_as.to_be_bytes());
        body.extend(self.hold_time.to_be_bytes());
        body.extend(self.identifier.octets());
        body.push(u8::try_from(self.parameters.len()).expect("fits"));
        body.extend(&self.parameters);
        message(OPEN, &body)
    }
}

pub fn capability(code: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![code, u8::try_from(value.len()).expect("fits")];
    octets.extend(value);
    octets
}

pub fn parameter(kind: u8, value: &[u8]) -> Vec<u8> {
    capability(kind, value)
}

/// An attribute; Extended Length is used where the flags say so.
#[derive(Clone)]
pub struct Attribute {
    pub flags: u8,
    pub code: u8,
    pub value: Vec<u8>,
}

pub const WELL_KNOWN: u8 = 0x40;
pub const OPTIONAL: u8 = 0x80;
pub const OPTIONAL_TRANSITIVE: u8 = 0xc0;

pub fn attribute(flags: u8, code: u8, value: &[u8]) -> Attribute {
    Attribute { flags, code, value: value.to_vec() }
}

impl Attribute {
    pub fn encode(&self) -> Vec<u8> {
        let mut octets = vec![self.flags, self.code];
        if self.flags & 0x10 != 0 {
            octets.extend(u16::try_from(self.value.len()).expect("fits").to_be_bytes());
        } else {
            octets.push(u8::try_from(self.value.len()).expect("fits"));
        }
        octets.extend(&self.value);
        octets
    }
}

/// An UPDATE of these parts.
pub fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(u16::try_from(withdrawn.len()).expect("fits").to_be_bytes());
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).expect("fits").to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(UPDATE, &body)
}

pub fn encode_all(attributes: &[Attribute]) -> Vec<u8> {
    attributes.iter().flat_map(Attribute::encode).collect()
}

/// A /24 as NLRI.
pub fn nlri(prefix: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, _] = prefix.octets();
    vec![24, a, b, c]
}

/// AS_PATH of one AS_SEQUENCE, four octets a number.
pub fn as_path(asns: &[u32]) -> Attribute {
    let mut value = vec![2, u8::try_from(asns.len()).expect("fits")];
    value.extend(asns.iter().flat_map(|asn| asn.to_be_bytes()));
    attribute(WELL_KNOWN, 2, &value)
}

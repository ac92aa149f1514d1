//! Scalars of the configuration: one function per kind, text in, value or a sentence out.
//!
//! The sentence says what is wrong with the text and what would be right; the caller knows the key
//! and the place. The same functions read a file's scalars and, later, those of Kubernetes objects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use routelet_proto::{Asn, HoldTime};

use super::problem::did_you_mean;

/// What a scalar gives.
pub type Scalar<T> = Result<T, String>;

/// `true` or `false`.
pub fn boolean(text: &str) -> Scalar<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

/// A whole number between `least` and `most`, both included.
pub fn number<T>(text: &str, least: T, most: T) -> Scalar<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(format!("`{text}` is not a whole number from {least} to {most}")),
    }
}

/// One of a few words, spelt exactly.
pub fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Scalar<T> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let hint = did_you_mean(text, names.iter().copied());
    Err(format!("`{text}` is not possible here.{hint} Possible: {}", names.join(", ")))
}

/// A name: printable, without spaces, at most 253 octets as Kubernetes has them.
pub fn name(text: &str) -> Scalar<String> {
    if text.is_empty() {
        return Err("is empty; give it a name".to_owned());
    }
    if text.len() > 253 {
        return Err(format!("is {} octets long; a name has at most 253", text.len()));
    }
    match text.chars().find(|char| !char.is_ascii_graphic()) {
        Some(char) => Err(format!(
            "`{}` has the character {char:?}; use letters, digits, `-` and `.`",
            text.escape_debug()
        )),
        None => Ok(text.to_owned()),
    }
}

/// An AS number, plain or in asdot notation (RFC 5396), that a speaker may have.
pub fn as_number(text: &str) -> Scalar<Asn> {
    let not_one = || {
        format!(
            "`{text}` is not an AS number: 1 to 4294967294, plain (4200000001) or asdot (64086.59905)"
        )
    };
    let digits = |part: &str| part.bytes().all(|octet| octet.is_ascii_digit()) && !part.is_empty();
    let value = match text.split_once('.') {
        Some((high, low)) if digits(high) && digits(low) => {
            let high: u16 = high.parse().map_err(|_| not_one())?;
            let low: u16 = low.parse().map_err(|_| not_one())?;
            u32::from(high) << 16 | u32::from(low)
        }
        None if digits(text) => text.parse().map_err(|_| not_one())?,
        _ => return Err(not_one()),
    };
    match Asn(value) {
        Asn::ZERO => Err("AS 0 is reserved (RFC 7607); private numbers are 64512 to 65534 and 4200000000 to 4294967294".to_owned()),
        Asn::TRANS => Err("AS 23456 is AS_TRANS, a stand-in that no speaker may have (RFC 6793); private numbers are 64512 to 65534".to_owned()),
        Asn(65535 | u32::MAX) => Err(format!("AS {value} is reserved (RFC 7300); private numbers are 64512 to 65534 and 4200000000 to 4294967294")),
        asn => Ok(asn),
    }
}

/// An IP address.
pub fn address(text: &str) -> Scalar<IpAddr> {
    if let Ok(address) = text.parse() {
        return match address {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(format!(
                "`{text}` is an IPv4 address in IPv6 dress; write {}",
                v6.to_canonical()
            )),
            _ => Ok(address),
        };
    }
    if let Some((address, _)) = text.split_once('/')
        && address.parse::<IpAddr>().is_ok()
    {
        return Err(format!("`{text}` has a prefix length; write the address only: {address}"));
    }
    Err(format!("`{text}` is not an IP address, for example 192.0.2.1 or 2001:db8::1"))
}

/// An address that a speaker can have: not unspecified, multicast or broadcast.
pub fn host_address(text: &str) -> Scalar<IpAddr> {
    let address = address(text)?;
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(format!("`{text}` is not the address of a host"));
    }
    Ok(address)
}

/// A prefix without host bits, and with its length.
pub fn cidr(text: &str) -> Scalar<IpNet> {
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => {
                let length = if address.is_ipv4() { 32 } else { 128 };
                format!("`{text}` has no prefix length; for this one address write {text}/{length}")
            }
            Err(_) => format!("`{text}` is not a prefix, for example 10.244.1.0/24 or fd00:1::/64"),
        });
    };
    if net != net.trunc() {
        return Err(format!(
            "`{text}` has bits set behind its length; the prefix is {}",
            net.trunc()
        ));
    }
    Ok(net)
}

/// A node's address with the length of its subnet; without a length it is a subnet of its own.
pub fn interface_address(text: &str) -> Scalar<IpNet> {
    let (host, length) = text.split_once('/').unwrap_or((text, ""));
    let address = host_address(host)?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        "" if !text.contains('/') => widest,
        _ => number::<u8>(length, 1, widest)
            .map_err(|_| format!("`{text}`: the prefix length is not 1 to {widest}"))?,
    };
    if is_link_local(address) {
        return Err(format!(
            "`{text}` is link-local: other nodes cannot tell whose it is; use a routable address"
        ));
    }
    let net = IpNet::new(address, length).map_err(|error| format!("`{text}`: {error}"))?;
    let reserved = address.is_ipv4()
        && length < 31
        && (address == net.network() || address == net.broadcast());
    if reserved {
        return Err(format!(
            "`{text}` is the subnet's own address, not a host's; write the node's address with the \
             length, for example {}/{length}",
            net.hosts().next().unwrap_or(address)
        ));
    }
    Ok(net)
}

/// Where a peer is: address, zone of a link-local one, port. Calico's forms `192.0.2.1`,
/// `192.0.2.1:1179`, `2001:db8::1`, `[2001:db8::1]:1179`, and `fe80::1%eth0`.
pub fn peer_ip(text: &str) -> Scalar<(IpAddr, Option<String>, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
            _ => return Err(format!("`{text}`: write [address]:port")),
        }
    } else if text.matches(':').count() == 1 {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        (host, Some(port))
    } else {
        (text, None)
    };
    let port = match port {
        Some(port) => Some(number::<u16>(port, 1, u16::MAX).map_err(|why| format!("port: {why}"))?),
        None => None,
    };
    let (host, zone) = match host.split_once('%') {
        Some((host, zone)) => (host, Some(interface(zone)?)),
        None => (host, None),
    };
    let address = host_address(host)?;
    if zone.is_some() && !is_link_local(address) {
        return Err(format!("`{text}`: only a link-local address has a zone; leave out `%…`"));
    }
    Ok((address, zone, port))
}

/// The name of a network interface, 1 to 15 octets as the kernel has them.
pub fn interface(text: &str) -> Scalar<String> {
    let fits = (1..=15).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'/');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not the name of an interface (1 to 15 characters, for example eth0)"
        ))
    }
}

/// 32 bits written as an IPv4 address, not zero.
pub fn identifier(text: &str) -> Scalar<Ipv4Addr> {
    match text.parse::<Ipv4Addr>() {
        Ok(Ipv4Addr::UNSPECIFIED) => {
            Err("0.0.0.0 is not a valid identifier (RFC 6286); any other 32 bits are".to_owned())
        }
        Ok(identifier) => Ok(identifier),
        Err(_) => Err(format!("`{text}` is not written as an IPv4 address, for example 10.0.0.1")),
    }
}

/// A duration with its units: `90s`, `3m`, `1m30s`, `500ms`.
pub fn duration(text: &str) -> Scalar<Duration> {
    let wrong = || {
        format!(
            "`{text}` is not a duration: write a number and its unit, for example 90s, 3m, 500ms"
        )
    };
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(format!("`{text}` has no unit; for seconds write {text}s (also ms, m, h)"));
    }
    let mut rest = text;
    let mut milliseconds = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        milliseconds = value
            .checked_mul(unit)
            .and_then(|part| milliseconds.checked_add(part))
            .ok_or_else(wrong)?;
    }
    Ok(Duration::from_millis(milliseconds))
}

/// A duration of whole seconds between `least` and `most` seconds, both included.
pub fn seconds(text: &str, least: u16, most: u16) -> Scalar<u16> {
    let value = duration(text)?;
    if value.subsec_millis() != 0 {
        return Err(format!("`{text}` is not whole seconds"));
    }
    match u16::try_from(value.as_secs()) {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(format!("`{text}` is not between {least}s and {most}s")),
    }
}

/// A hold time: 0 or 3 to 65535 seconds.
pub fn hold_time(text: &str) -> Scalar<HoldTime> {
    HoldTime::new(seconds(text, 0, u16::MAX)?).ok_or_else(|| {
        format!("`{text}` is forbidden (RFC 4271 section 4.2): 0s for no keepalives at all, or at least 3s")
    })
}

/// An absolute path.
pub fn path(text: &str) -> Scalar<PathBuf> {
    if !text.starts_with('/') {
        return Err(format!("`{text}` is not an absolute path; it must begin with `/`"));
    }
    if text.contains('\0') {
        return Err("has a NUL in it".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Link-local, IPv6 only: IPv4's (169.254/16) needs no interface to be reached.
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if Ipv6Addr::is_unicast_link_local(&v6))
}

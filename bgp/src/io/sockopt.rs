//! Socket options that the standard library and socket2 lack. The only unsafe code of this crate.
//!
//! In: a socket and plain values. Out: `setsockopt`, with its error.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};
use socket2::{SockAddr, SockRef};

use crate::core::config::Password;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: c_int,
    key: [u8; libc::TCP_MD5SIG_MAXKEYLEN],
}

const _: () = assert!(size_of::<TcpMd5Sig>() == 216, "the kernel's structure has 216 octets");

/// Sets the TCP MD5 key (RFC 2385) that `socket` uses with `peer`; `None` removes it. A listening
/// socket holds a key per peer, and has it before the peer's SYN comes.
///
/// # Errors
/// `ENOENT` when a key is removed that was not there, and what else `setsockopt` says.
pub fn set_md5_key(
    socket: &impl AsFd,
    peer: IpAddr,
    password: Option<&Password>,
) -> io::Result<()> {
    let key = password.map_or(&[][..], |password| &password.0);
    if key.len() > libc::TCP_MD5SIG_MAXKEYLEN {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "password longer than 80 octets"));
    }
    let address = SockAddr::from(SocketAddr::new(peer, 0));
    // SAFETY: all-zero is a valid value of every field.
    let mut option: TcpMd5Sig = unsafe { std::mem::zeroed() };
    // SAFETY: `address` points to `len` initialised octets, and a sockaddr_storage holds any
    // socket address.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut option.address).cast::<u8>(),
            address.len() as usize,
        );
    }
    option.key_length = key.len() as u16;
    option.key[..key.len()].copy_from_slice(key);
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option)
}

/// Drops packets of a connection whose TTL or hop limit is below `least` (RFC 5082).
///
/// # Errors
/// What `setsockopt` says.
pub fn set_minimum_ttl(socket: &impl AsFd, peer: IpAddr, least: u8) -> io::Result<()> {
    let least = c_int::from(least);
    match peer {
        IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least),
        IpAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &least),
    }
}

/// Makes a listening socket keep the SYN of each connection for [`syn_ttl`].
///
/// # Errors
/// What `setsockopt` says.
pub fn save_syn(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, &c_int::from(true))
}

/// The TTL or hop limit that the SYN of an accepted connection came with. `None` if it was not saved,
/// or has been asked for before.
#[must_use]
pub fn syn_ttl(socket: &impl AsFd) -> Option<u8> {
    // An IPv6 header and the longest TCP header; the kernel gives nothing if there is less room.
    let mut headers = [0_u8; 512];
    let mut length = headers.len() as socklen_t;
    // SAFETY: `headers` has `length` octets to write to, and both live through the call.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            headers.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    if outcome != 0 || length < 20 {
        return None;
    }
    match headers[0] >> 4 {
        4 => Some(headers[8]),
        6 => Some(headers[7]),
        _ => None,
    }
}

/// Sets the TTL or hop limit of what is sent.
///
/// # Errors
/// What `setsockopt` says.
pub fn set_ttl(socket: &impl AsFd, peer: IpAddr, ttl: u8) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match peer {
        IpAddr::V4(_) => socket.set_ttl_v4(ttl.into()),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl.into()),
    }
}

/// Whether octets wait unread in `socket`, asked of the kernel without taking them.
#[must_use]
pub fn has_unread_octets(socket: &impl AsFd) -> bool {
    let mut octet = [0_u8; 1];
    // SAFETY: the buffer is one octet long and lives through the call.
    let received = unsafe {
        libc::recv(
            socket.as_fd().as_raw_fd(),
            octet.as_mut_ptr().cast::<c_void>(),
            octet.len(),
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    received > 0
}

fn set_option<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a live value of `size_of::<T>()` octets, which the kernel only reads.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<c_void>(),
            size_of::<T>() as socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

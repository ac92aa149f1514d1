//! Network namespaces, and what is in them: links, addresses, routes, sysctls.
//!
//! In flow: names and addresses. Out flow: kernel objects, made through netlink and /proc by a
//! thread that has moved into the namespace, so that no `ip` command is needed.
//!
//! What always holds: the calling thread never changes its namespace; a namespace lives as long as
//! its [`Netns`], its processes and its file under [`DIRECTORY`], which is unmounted with it.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use anyhow::{Context, bail};
use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteProtocol, RouteScope};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

/// Where namespaces are found by name, also by `ip netns exec` and `nsenter --net=`.
pub const DIRECTORY: &str = "/run/netns";

/// A network namespace; clones are the same one.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    path: PathBuf,
}

/// One way a route can go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Via<'a> {
    /// Out of this device, the destination being on link.
    Device(&'a str),
    /// Through this gateway, which must be on link.
    Gateway(IpAddr),
}

impl Netns {
    /// Makes a namespace with `lo` up, forwarding off, and no waiting for duplicate addresses.
    ///
    /// # Errors
    /// If the name is taken, or this process may not make namespaces (outside a sandbox).
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let file = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the new namespace")
        })
        .with_context(|| format!("namespace {name}"))?;
        fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
        File::create_new(&path).with_context(|| format!("namespace {name} exists already"))?;
        let inner = Inner { name: name.to_owned(), file, path };
        let source = format!("/proc/self/fd/{}", inner.file.as_raw_fd());
        mount(Some(source.as_str()), &inner.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot bind namespace {name} to {}", inner.path.display()))?;
        let netns = Self(Arc::new(inner));
        netns.run(loopback_up).with_context(|| format!("cannot set lo of {name} up"))?;
        for scope in ["all", "default"] {
            netns.sysctl_if_there(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            netns.sysctl_if_there(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
        }
        Ok(netns)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A file to enter it by, as in `nsenter --net=PATH`; valid inside the sandbox.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Calls `job` on a thread inside.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            setns(&self.0.file, CloneFlags::CLONE_NEWNET)
                .expect("invariant: the file is a network namespace of ours");
            job()
        })
    }

    /// Calls `job` inside with netlink and a runtime of one thread.
    ///
    /// # Errors
    /// Those of `job`, and of opening netlink.
    pub fn netlink<T: Send, F>(&self, job: impl FnOnce(Handle) -> F + Send) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        self.run(|| with_netlink(job)).with_context(|| format!("in namespace {}", self.name()))
    }

    /// Starts a process inside.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // The child inherits the namespace of the thread that forks.
        self.run(|| command.spawn())
    }

    /// Runs a command inside to its end and gives its standard output.
    ///
    /// # Errors
    /// If it cannot be started, or fails: with its standard error.
    pub fn output(&self, command: &mut Command) -> anyhow::Result<String> {
        let words = format!("{command:?}");
        let output = self
            .run(|| command.output())
            .with_context(|| format!("cannot run {words} in {}", self.name()))?;
        if !output.status.success() {
            bail!(
                "{words} in {}: {}\n{}{}",
                self.name(),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a value below `/proc/sys`, for example `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// If the kernel has no such key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        self.run(|| fs::write(Path::new("/proc/sys").join(key), value))
            .with_context(|| format!("cannot set {key} to {value} in {}", self.name()))
    }

    /// Reads a value below `/proc/sys`.
    ///
    /// # Errors
    /// If the kernel has no such key.
    pub fn read_sysctl(&self, key: &str) -> anyhow::Result<String> {
        let text = self
            .run(|| fs::read_to_string(Path::new("/proc/sys").join(key)))
            .with_context(|| format!("cannot read {key} in {}", self.name()))?;
        Ok(text.trim().to_owned())
    }

    fn sysctl_if_there(&self, key: &str, value: &str) -> anyhow::Result<()> {
        match self.run(|| fs::write(Path::new("/proc/sys").join(key), value)) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("cannot set {key} in {}", self.name())),
        }
    }

    /// Makes it a router: IPv4 and IPv6 packets are forwarded.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forward(&self) -> anyhow::Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl_if_there("net/ipv6/conf/all/forwarding", "1")
    }

    /// Sets the reverse path filter (0 off, 1 strict, 2 loose) of all present and future devices.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn rp_filter(&self, mode: u8) -> anyhow::Result<()> {
        let devices = self.run(|| fs::read_dir("/proc/sys/net/ipv4/conf"))?;
        for device in devices.flatten() {
            let key = format!("net/ipv4/conf/{}/rp_filter", device.file_name().display());
            self.sysctl(&key, &mode.to_string())?;
        }
        Ok(())
    }

    /// Connects two namespaces by a pair of devices and sets both up.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn veth(&self, name: &str, other: &Self, other_name: &str) -> anyhow::Result<()> {
        self.netlink(|handle| async move {
            let peer = LinkMessageBuilder::<LinkUnspec>::new()
                .name(other_name)
                .setns_by_fd(other.0.file.as_raw_fd())
                .build();
            let pair = LinkVeth::new(name, other_name)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            handle.link().add(pair).execute().await.with_context(|| format!("veth {name}"))?;
            // One end cannot come up before the other exists.
            set_link(&handle, name, true).await
        })?;
        other.set_link(other_name, true)
    }

    /// Makes a bridge without spanning tree and sets it up.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn bridge(&self, name: &str) -> anyhow::Result<()> {
        self.netlink(|handle| async move {
            let bridge = LinkBridge::new(name).up().build();
            handle.link().add(bridge).execute().await.with_context(|| format!("bridge {name}"))
        })
    }

    /// Puts a device under a bridge.
    ///
    /// # Errors
    /// If one of them does not exist.
    pub fn enslave(&self, device: &str, bridge: &str) -> anyhow::Result<()> {
        self.netlink(|handle| async move {
            let controller = link_index(&handle, bridge).await?;
            let index = link_index(&handle, device).await?;
            let message = LinkUnspec::new_with_index(index).controller(controller).build();
            handle.link().set(message).execute().await.context("cannot enslave")
        })
    }

    /// Sets a device up or down.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn set_link(&self, device: &str, up: bool) -> anyhow::Result<()> {
        self.netlink(|handle| async move { set_link(&handle, device, up).await })
    }

    /// Removes a device, and its other end with it.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn delete_link(&self, device: &str) -> anyhow::Result<()> {
        self.netlink(|handle| async move {
            let index = link_index(&handle, device).await?;
            handle.link().del(index).execute().await.with_context(|| format!("delete {device}"))
        })
    }

    /// MTU of a device, octets.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn mtu(&self, device: &str) -> anyhow::Result<u32> {
        self.netlink(|handle| async move {
            let link = find_link(&handle, device).await?;
            let mtu = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            });
            mtu.with_context(|| format!("{device} has no MTU"))
        })
    }

    /// Sets the MTU of a device, octets.
    ///
    /// # Errors
    /// If it does not exist, or cannot have it.
    pub fn set_mtu(&self, device: &str, mtu: u32) -> anyhow::Result<()> {
        self.netlink(|handle| async move {
            let index = link_index(&handle, device).await?;
            let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
            let request = handle.link().set(message);
            request.execute().await.with_context(|| format!("MTU {mtu} of {device}"))
        })
    }

    /// Index of a device.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn link_index(&self, device: &str) -> anyhow::Result<u32> {
        self.netlink(|handle| async move { link_index(&handle, device).await })
    }

    /// Gives a device an address with its prefix length.
    ///
    /// # Errors
    /// If the device does not exist or has it already.
    pub fn add_address(&self, device: &str, address: IpNet) -> anyhow::Result<()> {
        self.netlink(|handle| async move {
            let index = link_index(&handle, device).await?;
            let request = handle.address().add(index, address.addr(), address.prefix_len());
            request.execute().await.with_context(|| format!("address {address} on {device}"))
        })
    }

    /// Adds a route of protocol static to the main table.
    ///
    /// # Errors
    /// If it exists, or the gateway is not on link.
    pub fn add_route(&self, to: IpNet, via: Via<'_>) -> anyhow::Result<()> {
        self.netlink(|handle| async move {
            let mut route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(to.network(), to.prefix_len())?
                .protocol(RouteProtocol::Static);
            route = match via {
                Via::Gateway(gateway) => route.gateway(gateway)?,
                // The kernel looks a gateway up in routes of link scope only.
                Via::Device(device) => {
                    route.output_interface(link_index(&handle, device).await?).scope(
                        if to.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
                    )
                }
            };
            let request = handle.route().add(route.build());
            request.execute().await.with_context(|| format!("route {to} {via:?}"))
        })
    }

    /// Removes every route of the main table to exactly this prefix. Says how many there were.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn delete_routes(&self, to: IpNet) -> anyhow::Result<usize> {
        self.netlink(|handle| async move {
            let mut query = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(to.network(), to.prefix_len())?
                .build();
            // The crate's own destination would be taken for a lookup; the dump is filtered here.
            query.attributes.clear();
            query.header.destination_prefix_length = 0;
            let mut routes = handle.route().get(query).execute();
            let mut found = Vec::new();
            while let Some(route) = routes.try_next().await.context("cannot list routes")? {
                if route.header.table == 254 && destination(&route) == Some(to.trunc()) {
                    found.push(route);
                }
            }
            let count = found.len();
            for route in found {
                handle.route().del(route).execute().await.context("cannot delete the route")?;
            }
            Ok(count)
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// Sets `lo` of the calling thread's namespace up: without it the local table is missing, and an
/// onlink gateway is refused.
pub(super) fn loopback_up() -> anyhow::Result<()> {
    with_netlink(|handle| async move { set_link(&handle, "lo", true).await })
}

fn on_own_thread<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(job).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn with_netlink<T, F>(job: impl FnOnce(Handle) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
        let connection = tokio::spawn(connection);
        let result = job(handle).await;
        connection.abort();
        result
    })
}

async fn set_link(handle: &Handle, device: &str, up: bool) -> anyhow::Result<()> {
    let index = link_index(handle, device).await?;
    let builder = LinkUnspec::new_with_index(index);
    let message = if up { builder.up() } else { builder.down() }.build();
    let request = handle.link().set(message);
    request.execute().await.with_context(|| format!("cannot set {device} up or down"))
}

async fn link_index(handle: &Handle, device: &str) -> anyhow::Result<u32> {
    Ok(find_link(handle, device).await?.header.index)
}

async fn find_link(handle: &Handle, device: &str) -> anyhow::Result<LinkMessage> {
    let mut links = handle.link().get().match_name(device).execute();
    let link = links.try_next().await.with_context(|| format!("no device {device}"))?;
    link.with_context(|| format!("no device {device}"))
}

fn destination(route: &netlink_packet_route::route::RouteMessage) -> Option<IpNet> {
    use netlink_packet_route::route::{RouteAddress, RouteAttribute};
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

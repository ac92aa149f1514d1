//! A real API server: etcd and kube-apiserver from the folder that `KUBEBUILDER_ASSETS` names, in a
//! network namespace, with `kubectl`.
//!
//! In flow: manifests as a user applies them. Out flow: what `kubectl` says, credentials as the
//! DaemonSet's pods get them, and the audit log of everything that the agents asked for.
//!
//! What always holds: everything it writes lies in one folder, and its processes end with the value.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use routelet::lab::netns::Netns;
use routelet::lab::process::Process;
use serde_json::Value;

use crate::harness::{Skip, eventually, program};

/// Where the agents' service account lives.
pub const NAMESPACE: &str = "kube-system";
/// Their service account, as the API server calls its user.
pub const AGENT: &str = "system:serviceaccount:kube-system:routelet";

/// How long the server may take to be ready, on a busy machine.
const START: Duration = Duration::from_secs(120);

/// The running server.
#[derive(Debug)]
pub struct ApiServer {
    folder: PathBuf,
    netns: Netns,
    address: String,
    programs: Programs,
    _etcd: Process,
    server: Option<Process>,
}

#[derive(Clone, Debug)]
struct Programs {
    etcd: PathBuf,
    server: PathBuf,
    kubectl: PathBuf,
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        let Some(folder) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
            return Err(Skip(
                "KUBEBUILDER_ASSETS is not set: the folder of etcd and kube-apiserver, see CONTRIBUTING.md"
                    .into(),
            )
            .into());
        };
        let inside = |name: &str| {
            let path = folder.join(name);
            ensure!(path.is_file(), "KUBEBUILDER_ASSETS has no {name}: {}", folder.display());
            Ok(path)
        };
        Ok(Self {
            etcd: inside("etcd")?,
            server: inside("kube-apiserver")?,
            kubectl: inside("kubectl").or_else(|_| program("kubectl", "kubernetes-client"))?,
        })
    }
}

impl ApiServer {
    /// Starts etcd and the server in `netns`, which has `address`, and waits until it is ready.
    ///
    /// # Errors
    /// A skip without `KUBEBUILDER_ASSETS`; else what does not start.
    pub fn start(netns: &Netns, address: &str, folder: &Path) -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let key = folder.join("accounts.key");
        let mut openssl = Command::new(program("openssl", "openssl")?);
        openssl.args(["genrsa", "-out"]).arg(&key).arg("2048").stderr(Stdio::null());
        netns.output(&mut openssl)?;
        fs::write(folder.join("tokens.csv"), "admin,admin,admin,\"system:masters\"\n")?;
        fs::write(
            folder.join("audit.yaml"),
            format!(
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
                 rules:\n- {{level: Metadata, users: [\"{AGENT}\"]}}\n- {{level: None}}\n"
            ),
        )?;
        let mut etcd = Command::new(&programs.etcd);
        etcd.arg("--data-dir").arg(folder.join("etcd")).args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        ]);
        let etcd = Process::spawn("etcd", netns, &mut etcd, &folder.join("etcd.log"))?;
        let mut api = Self {
            folder: folder.to_owned(),
            netns: netns.clone(),
            address: address.to_owned(),
            programs,
            _etcd: etcd,
            server: None,
        };
        api.up()?;
        Ok(api)
    }

    /// Starts the server alone, after [`Self::down`].
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn up(&mut self) -> anyhow::Result<()> {
        let (folder, key) = (&self.folder, self.folder.join("accounts.key"));
        let file = |name: &str| folder.join(name).display().to_string();
        let mut server = Command::new(&self.programs.server);
        server.args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            "--secure-port=6443".to_owned(),
            format!("--cert-dir={}", file("certs")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", key.display()),
            format!("--service-account-signing-key-file={}", key.display()),
            // Pods are made by hand here, and nobody makes the accounts that it would mount.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file("audit.json")),
        ]);
        let log = folder.join("kube-apiserver.log");
        let server = Process::spawn("kube-apiserver", &self.netns, &mut server, &log)?;
        self.server = Some(server);
        // Its certificate is made at the first start.
        let certificate = self.folder.join("certs/apiserver.crt");
        eventually("the API server's certificate", START, || {
            ensure!(certificate.is_file(), "no {}", certificate.display());
            Ok(())
        })?;
        self.credentials("admin", "admin")?;
        eventually("a ready API server", START, || {
            if let Some(status) = self.server.as_mut().and_then(Process::ended) {
                bail!("kube-apiserver has ended: {status}");
            }
            let ready = self.kubectl(&["get", "--raw=/readyz"])?;
            ensure!(ready == "ok", "it says {ready}");
            // Made by the server itself a little later.
            self.kubectl(&["get", "namespace", NAMESPACE])?;
            self.kubectl(&["get", "clusterrole", "cluster-admin"]).map(|_| ())
        })
    }

    /// Ends the server as a crash does; etcd keeps the objects.
    pub fn down(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.signal(Signal::SIGKILL);
            let _ = server.wait(Duration::from_secs(10));
        }
    }

    /// Runs `kubectl` as an administrator, or as whom the arguments say.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.programs.kubectl);
        command
            .arg("--kubeconfig")
            .arg(self.folder.join("admin.kubeconfig"))
            .args(arguments)
            // Nothing of the machine's own user, caches included.
            .env("HOME", &self.folder)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.netns.spawn(&mut command).context("cannot run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        let input = input.to_owned();
        let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        let _ = writer.join();
        Ok(output)
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// If it fails: with what it says.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.feed(arguments, "")
    }

    /// What `kubectl` prints when it is given this text.
    ///
    /// # Errors
    /// If it fails: with what it says.
    pub fn feed(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let output = self.run(arguments, input)?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl apply` of this text.
    ///
    /// # Errors
    /// If it is refused.
    pub fn apply(&self, text: &str) -> anyhow::Result<String> {
        self.feed(&["apply", "--validate=strict", "-f", "-"], text)
    }

    /// `kubectl get … -o json`, or null if the object is not there.
    ///
    /// # Errors
    /// If it prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["get", "-o", "json", "--ignore-not-found"];
        all.extend(arguments);
        let text = self.kubectl(&all)?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("kubectl printed no JSON: {text}"))
    }

    /// Makes a Node with this address and pod CIDR, as kubelet and the controller manager do, and on
    /// it a pod of the DaemonSet.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn node(&self, name: &str, address: &str, pod_cidr: &str) -> anyhow::Result<()> {
        self.apply(&format!(
            "apiVersion: v1
kind: Node
metadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}}}}}
spec: {{podCIDR: {pod_cidr}, podCIDRs: [{pod_cidr}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: routelet-{name}, namespace: {NAMESPACE}}}
spec:
  serviceAccountName: routelet
  nodeName: {name}
  hostNetwork: true
  containers: [{{name: routelet, image: none}}]
"
        ))?;
        let status = format!(
            "{{\"status\": {{\"addresses\": [{{\"type\": \"InternalIP\", \"address\": \"{address}\"}}]}}}}"
        );
        let patch = format!("--patch={status}");
        self.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", &patch])?;
        Ok(())
    }

    /// Credentials of the agent on a node: a token as its pod gets it. Gives the kubeconfig.
    ///
    /// # Errors
    /// If the server gives no token.
    pub fn agent(&self, node: &str) -> anyhow::Result<PathBuf> {
        let token = self.token(node)?;
        self.credentials(node, &token)
    }

    /// The token of the agent on a node.
    ///
    /// # Errors
    /// If the server gives none.
    pub fn token(&self, node: &str) -> anyhow::Result<String> {
        let pod = format!("--bound-object-name=routelet-{node}");
        let token = self.kubectl(&[
            "create",
            "token",
            "routelet",
            "--namespace",
            NAMESPACE,
            "--bound-object-kind=Pod",
            &pod,
        ])?;
        Ok(token.trim().to_owned())
    }

    /// Writes a kubeconfig with a token and gives its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn credentials(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        let certificates = fs::read_to_string(self.folder.join("certs/apiserver.crt"))?;
        // The server's own certificate comes first, that of its authority last.
        let begin = certificates.rfind("-----BEGIN").context("no certificate")?;
        let authority = self.folder.join("authority.crt");
        fs::write(&authority, &certificates[begin..])?;
        let mut text = String::new();
        write!(
            text,
            "apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: 'https://{}:6443', certificate-authority: {}}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u, namespace: {NAMESPACE}}}}}]
current-context: c
",
            self.address,
            authority.display()
        )?;
        let path = self.folder.join(format!("{name}.kubeconfig"));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Where the server's own files are: logs, credentials.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every request of an agent so far, as the audit log has it.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.join("audit.json")).unwrap_or_default();
        // The last line may be half written.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

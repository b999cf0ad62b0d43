//! A control plane of the test's own: the real binary, on free ports of loopback, over a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

pub const NAME: &str = "heddle-injector.heddle-system.svc";

/// The pod that the tests speak as.
pub const POD: &str = "apiVersion: v1\nkind: Pod\n\
    metadata: {name: web-0, namespace: shop, uid: uid-0}\n\
    spec: {serviceAccountName: web, containers: [{name: app}]}\n\
    status: {phase: Running, podIPs: [{ip: 10.1.0.3}]}\n";

pub struct Bed {
    folder: tempfile::TempDir,
    key: KeyPair,
    child: Option<Child>,
    ports: [u16; 4],
}

pub type Sender<B> = http2::SendRequest<B>;

impl Bed {
    /// A control plane that knows `POD`, with further flags.
    pub async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        fs::write(folder.path().join("token.pem"), public_pem(&key)).unwrap();
        let mut bed = Self { folder, key, child: None, ports: [0; 4] };
        bed.put("pod.yaml", POD);
        bed.run(flags).await;
        bed
    }

    /// Starts the program, and waits until it is ready.
    pub async fn run(&mut self, flags: &[&str]) {
        let ports = self.path("ports");
        let _ = fs::remove_file(&ports);
        self.child = Some(self.command().args(flags).spawn().unwrap());
        for _ in 0..2_000 {
            if let Some(found) = self.read_ports(&ports) {
                self.ports = found;
                if self.plain(3, "/ready").await.is_some() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the control plane does not get ready");
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heddle-injector"));
        let flag = |name: &str, value: &Path| [format!("--{name}").into(), value.as_os_str().to_owned()];
        command.args(flag("manifests", &self.path("manifests")));
        command.args(flag("token-key", &self.path("token.pem")));
        command.args(flag("state", &self.path("state")));
        command.args(flag("bundle-out", &self.path("root.pem")));
        command.args(flag("ports-out", &self.path("ports")));
        command.args(["--cluster-cidr", "10.96.0.0/16", "--cluster-cidr", "10.1.0.0/16"]);
        command.args(["--listen", "127.0.0.1", "--log", "warn", "--control-port", "0"]);
        command.args(["--webhook-port", "0", "--metrics-port", "0", "--health-port", "0"]);
        command.stderr(Stdio::piped());
        command
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn control_port(&self) -> u16 {
        self.ports[0]
    }

    fn read_ports(&self, path: &Path) -> Option<[u16; 4]> {
        let text = fs::read_to_string(path).ok()?;
        let ports: Vec<u16> = text.split(' ').map(|port| port.parse().unwrap()).collect();
        ports.try_into().ok()
    }

    /// Writes a manifest as writers must: renamed into place.
    pub fn put(&self, name: &str, text: &str) {
        let draft = self.path("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.path("manifests").join(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path("manifests").join(name)).unwrap();
    }

    /// Writes a manifest and waits until it was taken.
    pub async fn put_and_wait(&self, name: &str, text: &str) {
        let before = self.sources().await["generation"].as_u64();
        self.put(name, text);
        while self.sources().await["generation"].as_u64() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn sources(&self) -> Value {
        serde_json::from_slice(&self.plain(2, "/sources").await.unwrap()).unwrap()
    }

    /// GET without TLS, from the metrics (2) or the health port (3).
    pub async fn plain(&self, port: usize, path: &str) -> Option<Bytes> {
        let stream = TcpStream::connect(("127.0.0.1", self.ports[port])).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "x").body(Full::<Bytes>::default()).ok()?;
        let response = sender.send_request(request).await.ok()?;
        Some(response.into_body().collect().await.ok()?.to_bytes())
    }

    /// Waits until a watch is open.
    pub async fn watched(&self) {
        let open = |page: Bytes| String::from_utf8_lossy(&page).contains("heddle_injector_watches 1");
        while !open(self.plain(2, "/metrics").await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn root(&self) -> String {
        fs::read_to_string(self.path("root.pem")).unwrap()
    }

    /// An HTTP/2 connection to the control (0) or the webhook's port (1), over TLS under the mesh's own root.
    pub async fn connect<B>(&self, port: usize) -> Sender<B>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.connect_from([127, 0, 0, 1], port).await
    }

    /// The same, from an address of loopback.
    pub async fn connect_from<B>(&self, address: [u8; 4], port: usize) -> Sender<B>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.dial(address, port).await;
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(self.tls())).connect(name, stream).await.unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(65_535);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A connection to any of the ports, without a handshake.
    pub async fn dial(&self, address: [u8; 4], port: usize) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        socket.connect(([127, 0, 0, 1], self.ports[port]).into()).await.unwrap()
    }

    fn tls(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// One request on port 15012 with `token`: its status and JSON (or text) body.
    pub async fn ask(&self, method: &str, target: &str, token: &str, body: &str) -> (u16, Value) {
        let response = send(&mut self.connect(0).await, method, target, token, body).await;
        read(response).await
    }

    /// One AdmissionReview for the webhook.
    pub async fn admit(&self, body: &str) -> (u16, Value) {
        read(send(&mut self.connect(1).await, "POST", "/inject", "", body).await).await
    }

    /// A good token of the pod.
    pub fn token(&self) -> String {
        self.token_with(|_| {})
    }

    /// A token whose claims a test has changed.
    pub fn token_with(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "aud": ["heddle.dev"], "sub": "system:serviceaccount:shop:web", "iat": now, "nbf": now, "exp": now + 3600,
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": {"name": "web-0", "uid": "uid-0"}},
        });
        change(&mut claims);
        let key = EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).unwrap();
        encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn uri(target: &str) -> Uri {
    format!("https://{NAME}{target}").parse().unwrap()
}

pub async fn send(
    sender: &mut Sender<Full<Bytes>>,
    method: &str,
    target: &str,
    token: &str,
    body: &str,
) -> Response<Incoming> {
    let request =
        Request::builder().method(method).uri(uri(target)).header("authorization", format!("Bearer {token}"));
    sender.send_request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap()
}

pub async fn read(response: Response<Incoming>) -> (u16, Value) {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    (code, serde_json::from_slice(&body).unwrap_or(Value::String(text)))
}

fn public_pem(key: &KeyPair) -> String {
    let der = serde_json::to_value(k8s_openapi::ByteString(key.subject_public_key_info())).unwrap();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", der.as_str().unwrap())
}

//! A client's TLS as a peer's proxy has it: 1.3 only, X25519, both certificates, nothing resumed.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Who the client is, and whom it believes. The files are PEM.
#[derive(clap::Args)]
pub struct Options {
    /// The client's certificate, and those between it and its root
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The roots of the server's certificate
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The protocol to offer, such as heddle/h2 [default: none]
    #[arg(long)]
    pub alpn: Option<String>,
}

impl Options {
    /// The same for every connection.
    pub fn config(&self) -> Result<ClientConfig> {
        let config = self.builder()?.with_client_auth_cert(self.chain()?, self.private_key()?);
        Ok(self.finish(config.context("certificate and key do not fit")?))
    }

    /// A client's that has no certificate.
    pub fn stranger(&self) -> Result<ClientConfig> {
        Ok(self.finish(self.builder()?.with_no_client_auth()))
    }

    fn builder(&self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
        let provider = provider();
        let verifier =
            AnyName { roots: self.roots()?, algorithms: provider.signature_verification_algorithms };
        Ok(ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier)))
    }

    fn finish(&self, mut config: ClientConfig) -> ClientConfig {
        config.resumption = Resumption::disabled();
        config.alpn_protocols = self.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        config
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let read = CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect);
        read.with_context(|| format!("no certificate in {}", self.cert.display()))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>> {
        let read = PrivateKeyDer::from_pem_file(&self.key);
        read.with_context(|| format!("no private key in {}", self.key.display()))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let unread = || format!("no certificate in {}", self.ca.display());
        for root in CertificateDer::pem_file_iter(&self.ca).with_context(unread)? {
            roots.add(root.with_context(unread)?)?;
        }
        Ok(roots)
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() }
}

/// Verifies a server's chain and its signature, as a peer does, and not its name, which is not what is measured.
#[derive(Debug)]
struct AnyName {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

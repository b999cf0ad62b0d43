//! Certificates: those of Envoy's pods, which nobody else makes, and one of Heddle's for a client that is no proxy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use serde::Deserialize;

use crate::subject::{Side, Subject};

/// Where identities of the stage begin.
pub fn trust_domain() -> String {
    format!("spiffe://{}", mesh::contract::DEFAULT_TRUST_DOMAIN)
}

/// Who the pod at an end of a subject's way is.
pub fn identity(subject: Subject, side: Side) -> String {
    format!("{}/ns/{}/sa/{}", trust_domain(), subject.name(), side.pod())
}

/// The files of somebody who takes part in mesh TLS.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate and what vouches for it.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The roots to trust.
    pub roots: PathBuf,
}

impl Files {
    /// Those of this name in a folder.
    pub fn named(folder: &Path, name: &str) -> Self {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        Self { chain: file("pem"), key: file("key"), roots: folder.join("ca.pem") }
    }
}

/// Makes Envoy's: one root, and for each end a leaf whose name is its pod's identity. All keys are P-256.
pub fn of_envoy(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut params = params();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = new_key()?;
    let root = params.self_signed(&key).context("cannot make a root")?;
    fs::write(folder.join("ca.pem"), root.pem())?;
    let issuer = Issuer::new(params, key);
    for side in Side::ALL {
        leaf(&issuer, &identity(Subject::Envoy, side), &Files::named(folder, side.pod()))?;
    }
    Ok(())
}

fn leaf(issuer: &Issuer<'_, KeyPair>, identity: &str, files: &Files) -> Result<()> {
    let mut params = params();
    params.subject_alt_names = vec![SanType::URI(identity.try_into().context("an identity is ASCII")?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = new_key()?;
    fs::write(&files.chain, params.signed_by(&key, issuer).context("cannot sign")?.pem())?;
    fs::write(&files.key, key.serialize_pem())?;
    Ok(())
}

/// A key and the request that the mesh's authority signs: as a proxy's, it gives only its key.
pub fn signing_request() -> Result<(KeyPair, String)> {
    let key = new_key()?;
    let request = params().serialize_request(&key).and_then(|request| request.pem());
    Ok((key, request.context("cannot make a signing request")?))
}

/// The authority's answer.
#[derive(Debug, Deserialize)]
pub struct Signed {
    chain: String,
    bundle: String,
}

impl Signed {
    /// Reads it.
    pub fn parse(answer: &str) -> Result<Self> {
        serde_json::from_str(answer).with_context(|| format!("the authority answered {answer:?}"))
    }

    /// Keeps it with its key, of this name in a folder.
    pub fn keep(&self, key: &KeyPair, folder: &Path, name: &str) -> Result<Files> {
        let files = Files { roots: folder.join(format!("{name}.roots.pem")), ..Files::named(folder, name) };
        fs::write(&files.chain, &self.chain)?;
        fs::write(&files.key, key.serialize_pem())?;
        fs::write(&files.roots, &self.bundle)?;
        Ok(files)
    }
}

/// Nothing but what is set besides: a name is a URI, never a subject.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_names_namespace_and_account() {
        assert_eq!(identity(Subject::Envoy, Side::Inbound), "spiffe://cluster.local/ns/envoy/sa/server");
    }

    #[test]
    fn an_answer_that_is_none_is_shown() {
        let error = Signed::parse("no such pod").expect_err("no answer");
        assert!(error.to_string().contains("no such pod"), "{error}");
        assert!(Signed::parse(r#"{"chain": "a", "bundle": "b", "more": 1}"#).is_ok());
    }
}

//! The authority's Secret: read by name, made once, followed.
//!
//! A Secret that vanished is never replaced (security rule 21): signing stops until it is back. That there once was one
//! is remembered by the ConfigMap with its roots.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::{Api, Client, Error};
use mesh::contract::{BUNDLE_CONFIG_MAP, BUNDLE_KEY};
use mesh::identity::TrustDomain;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde_json::json;
use tokio::time::sleep;

use super::bundle;
use crate::authority::{Authority, Material, Present};
use crate::source::kubernetes::in_time;

/// How often the Secret is looked at: a rotation takes minutes anyway.
const LOOK: Duration = Duration::from_secs(10);
/// Waiting for what an operator has to do.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the authority that the Secret holds.
pub struct Keeper {
    secrets: Api<Secret>,
    bundles: Api<ConfigMap>,
    namespace: String,
    name: String,
    create: bool,
    trust_domain: TrustDomain,
    leaf_life: Duration,
}

impl Keeper {
    /// Of the Secret `name` in `namespace`, which is made if `create` says so and there never was one.
    pub fn new(
        client: &Client,
        (namespace, name): (&str, &str),
        create: bool,
        trust_domain: TrustDomain,
        leaf_life: Duration,
    ) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        let bundles = Api::namespaced(client.clone(), namespace);
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { secrets, bundles, namespace, name, create, trust_domain, leaf_life }
    }

    /// The authority, as soon as there is one that can be used; until then the reason is said over and over.
    pub async fn open(&self) -> (Material, Authority) {
        loop {
            match self.try_open().await {
                Ok(Some(opened)) => return opened,
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("no authority: {error:#}");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// None if the Secret has just been made, by us or by another replica.
    async fn try_open(&self) -> Result<Option<(Material, Authority)>> {
        let secret = in_time(self.secrets.get_opt(&self.name)).await.context("the Secret cannot be read")?;
        let existed = in_time(self.bundles.get_opt(BUNDLE_CONFIG_MAP)).await;
        let existed = existed.context("the roots cannot be read")?;
        if let Some(secret) = secret {
            let (material, authority) = self.read(&secret)?;
            // What a running control plane would not take, one that happens to restart does not take either.
            if let Some(trusted) = existed.as_ref().and_then(|roots| roots.data.as_ref()?.get(BUNDLE_KEY)) {
                self.check_succession(&authority, trusted)?;
            }
            return Ok(Some((material, authority)));
        }
        anyhow::ensure!(existed.is_none(), "{}", self.vanished());
        anyhow::ensure!(
            self.create,
            "Secret {}/{} does not exist: make it, with tls.crt, tls.key and ca.crt, or let cert-manager do it",
            self.namespace,
            self.name
        );
        self.make().await?;
        Ok(None)
    }

    fn vanished(&self) -> String {
        format!(
            "Secret {}/{} is gone, and without it nothing is signed: restore it from a backup; only to begin a new mesh, \
             delete ConfigMap {}/{BUNDLE_CONFIG_MAP} as well",
            self.namespace, self.name, self.namespace
        )
    }

    fn read(&self, secret: &Secret) -> Result<(Material, Authority)> {
        let name = format!("Secret {}/{}", self.namespace, self.name);
        let material = material(secret).with_context(|| name.clone())?;
        let authority = Authority::issued(&material, &self.trust_domain, self.leaf_life, SystemTime::now())
            .context(name)?;
        Ok((material, authority))
    }

    /// Makes the Secret, and then the sign that there was one.
    async fn make(&self) -> Result<()> {
        let material = Material::new_root(&self.trust_domain, SystemTime::now())?;
        let authority = Authority::issued(&material, &self.trust_domain, self.leaf_life, SystemTime::now())?;
        let secret = serde_json::from_value(json!({
            "metadata": {"name": self.name, "labels": bundle::labels()},
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": bytes(&material.certificates), "tls.key": bytes(&material.key)},
        }))?;
        match in_time(self.secrets.create(&PostParams::default(), &secret)).await {
            Err(Error::Api(status)) if status.code == 409 => return Ok(()),
            outcome => outcome.context("the Secret cannot be made")?,
        };
        tracing::info!("made a new root in Secret {}/{}", self.namespace, self.name);
        let roots = bundle::config_map(&self.namespace, authority.bundle());
        match in_time(self.bundles.create(&PostParams::default(), &roots)).await {
            Err(Error::Api(status)) if status.code == 409 => Ok(()),
            outcome => outcome.map(drop).context("the roots cannot be written"),
        }
    }

    /// Follows the Secret for ever. What cannot be used changes nothing but the log.
    pub async fn keep(self, present: Arc<Present>, mut known: Material) {
        loop {
            sleep(LOOK).await;
            match in_time(self.secrets.get_opt(&self.name)).await {
                Ok(Some(secret)) => self.take(&secret, &present, &mut known),
                Ok(None) => {
                    tracing::error!("{}", self.vanished());
                    present.vanish(&self.vanished());
                }
                Err(error) => tracing::warn!("the authority's Secret cannot be read: {error}"),
            }
        }
    }

    fn take(&self, secret: &Secret, present: &Present, known: &mut Material) {
        if material(secret).is_ok_and(|material| material == *known) {
            return present.reappear();
        }
        let taken = self.read(secret).and_then(|(material, authority)| {
            self.check_succession(&authority, present.last().bundle())?;
            Ok((material, authority))
        });
        match taken {
            Ok((material, authority)) => {
                tracing::warn!("the authority's Secret has changed, and is used from now on");
                present.replace(authority);
                *known = material;
            }
            Err(error) => tracing::error!("{error:#}; the authority stays as it was"),
        }
    }

    /// An authority that trusts none of the present roots would make every proxy cut every connection, at once.
    fn check_succession(&self, next: &Authority, trusted: &str) -> Result<()> {
        anyhow::ensure!(
            shares_a_root(next.bundle(), trusted),
            "Secret {0}/{1} trusts none of the roots that are trusted now, which would cut every connection: put the old \
             root and the new one into its ca.crt first, see docs/operations.md; only to begin a new mesh, delete \
             ConfigMap {0}/{BUNDLE_CONFIG_MAP} and restart the control plane",
            self.namespace,
            self.name
        );
        Ok(())
    }
}

/// Whether two bundles, as PEM, have a root in common. One that was renewed with its key and name is the same: it vouches
/// for what the old one signed.
fn shares_a_root(one: &str, other: &str) -> bool {
    let (one, other) = (anchors(one), anchors(other));
    one.iter().any(|root| other.contains(root))
}

fn anchors(bundle: &str) -> Vec<TrustAnchor<'static>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle.as_bytes()).filter_map(Result::ok));
    store.roots
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn material(secret: &Secret) -> Result<Material> {
    let text = |key: &str| -> Result<Option<String>> {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        let text = data.map(|bytes| String::from_utf8(bytes.0.clone())).transpose();
        text.with_context(|| format!("{key} is not text"))
    };
    Ok(Material {
        certificates: text("tls.crt")?.context("it has no tls.crt")?,
        key: text("tls.key")?.context("it has no tls.key")?,
        roots: text("ca.crt")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: &serde_json::Value) -> Secret {
        serde_json::from_value(json!({"data": data})).unwrap()
    }

    #[test]
    fn a_secret_is_read_as_cert_manager_writes_it() {
        let all = secret(&json!({"tls.crt": bytes("c"), "tls.key": bytes("k"), "ca.crt": bytes("r")}));
        let material = material(&all).unwrap();
        let found = (material.certificates.as_str(), material.key.as_str(), material.roots.as_deref());
        assert_eq!(found, ("c", "k", Some("r")));
    }

    #[test]
    fn what_is_missing_in_a_secret_is_named() {
        let error = material(&secret(&json!({"tls.crt": bytes("c")}))).unwrap_err();
        assert_eq!(error.to_string(), "it has no tls.key");
    }

    fn root() -> String {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        Material::new_root(&domain, SystemTime::now()).unwrap().certificates
    }

    #[test]
    fn roots_are_replaced_only_by_way_of_both() {
        let (old, new) = (root(), root());
        let both = old.clone() + &new;
        assert!(shares_a_root(&old, &both) && shares_a_root(&both, &new) && shares_a_root(&old, &old));
        assert!(!shares_a_root(&old, &new));
        assert!(!shares_a_root(&old, "") && !shares_a_root("", ""));
    }

    #[test]
    fn a_root_that_was_renewed_with_its_key_is_the_same() {
        let key = rcgen::KeyPair::generate().unwrap();
        let renewed = |serial: u64| {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.serial_number = Some(serial.into());
            params.self_signed(&key).unwrap().pem()
        };
        assert_ne!(renewed(1), renewed(2));
        assert!(shares_a_root(&renewed(1), &renewed(2)));
    }
}

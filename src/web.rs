//! Requests to servers outside, with the certificates and proxies that models are fetched by.

use std::time::Duration;

use anyhow::Context;
use openvalidators_hub::HubConfig;

/// Who is asking.
const AGENT: &str = concat!("openvalidators/", env!("CARGO_PKG_VERSION"));

/// A client whose requests take no longer than `patience` altogether.
///
/// # Errors
/// When the certificates cannot be read.
pub fn client(config: &HubConfig, patience: Duration) -> anyhow::Result<reqwest::Client> {
    // Another part of the program may have chosen it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().user_agent(AGENT).timeout(patience).connect_timeout(patience);
    if let Some(file) = &config.certificates_file {
        let pem = std::fs::read(file).with_context(|| format!("models.certificates_file {}", file.display()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem);
        let certificates = certificates.with_context(|| format!("models.certificates_file {}", file.display()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    Ok(builder.build()?)
}

/// A client for what this machine serves itself, past every proxy.
///
/// # Errors
/// When the system gives none.
pub fn local_client(patience: Duration) -> anyhow::Result<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().user_agent(AGENT).timeout(patience).no_proxy().build()?)
}

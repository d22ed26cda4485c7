//! The load generator's HTTP client.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long one answer may take: a cut over all that a run sent takes minutes, a server that is stuck takes for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);

pub(crate) struct Api {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Api {
    /// Over TLS trusts `trusted_pem`, or what the system trusts if there is nothing in it.
    pub(crate) fn new(url: &str, token: &str, trusted_pem: &str) -> Result<Self> {
        let mut client = reqwest::Client::builder().timeout(ANSWER_WITHIN);
        if url.starts_with("https://") && !trusted_pem.is_empty() {
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(trusted_pem.as_bytes())?);
        }
        let client = client.build()?;
        Ok(Self { client, url: url.to_string(), token: token.to_string() })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        self.send(self.client.get(format!("{}{path}", self.url)), path).await
    }

    pub(crate) async fn post(&self, path: &str, body: String) -> Result<Value> {
        let text = self.send(self.client.post(format!("{}{path}", self.url)).body(body), path).await?;
        Ok(serde_json::from_str(&text)?)
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> Result<String> {
        let response = request.bearer_auth(&self.token).send().await;
        let response = response.with_context(|| format!("{}{path} does not answer", self.url))?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{path}: {status} {text}");
        }
        Ok(text)
    }
}

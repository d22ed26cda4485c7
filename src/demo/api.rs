//! The demo's HTTP client: what a billing system or an operator would call.

use anyhow::{Context, Result, bail};
use domain::Timestamp;
use serde_json::{Value, json};

/// A client of a server's API.
pub(crate) struct Api {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Api {
    pub(crate) fn new(url: String, token: String) -> Self {
        Self { client: reqwest::Client::new(), url, token }
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> Result<String> {
        let response = request
            .bearer_auth(&self.token)
            .send()
            .await
            .with_context(|| format!("{path} does not answer"))?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{path}: {status} {text}");
        }
        Ok(text)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        self.send(self.client.get(format!("{}{path}", self.url)), path).await
    }

    pub(crate) async fn get_json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(path).await?)?)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.client.post(format!("{}{path}", self.url)).body(body.to_string());
        Ok(serde_json::from_str(&self.send(request, path).await?)?)
    }

    pub(crate) async fn post_text(&self, path: &str, body: String) -> Result<Value> {
        let request = self.client.post(format!("{}{path}", self.url)).body(body);
        Ok(serde_json::from_str(&self.send(request, path).await?)?)
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.client.put(format!("{}{path}", self.url)).body(body.to_string());
        Ok(serde_json::from_str(&self.send(request, path).await?)?)
    }

    /// Moves the scenario clock.
    pub(crate) async fn advance(&self, now: Timestamp) -> Result<()> {
        self.post("/v1/scenario-clock", &json!({ "now": now })).await.map(|_| ())
    }
}

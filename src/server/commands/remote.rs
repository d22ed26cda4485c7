//! The server that a command asks over HTTP.
//!
//! Owns: where it is, who asks, whose certificates are trusted. Leaves to others: what is asked, and what the answer means.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{Certificate, Client, Url};
use serde_json::Value;

/// Which server, and how it is reached.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// The server; with https:// over TLS.
    #[arg(long, env = "TALLYMARK_URL", default_value = "http://127.0.0.1:7410", global = true)]
    url: String,
    /// A token with a role that may ask it.
    #[arg(long, env = "TALLYMARK_TOKEN", default_value = "", hide_default_value = true, global = true)]
    token: String,
    /// Certificates (PEM) of which one must stand behind the server's; those that the system trusts, if left out.
    #[arg(long, env = "TALLYMARK_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
}

/// What a server said.
pub(super) struct Answer {
    /// Whether it did what was asked.
    pub(super) is_done: bool,
    pub(super) text: String,
}

impl Answer {
    /// The text, if it did.
    ///
    /// # Errors
    /// What the server says against it.
    pub(super) fn done(self) -> Result<String> {
        if self.is_done {
            return Ok(self.text);
        }
        let problem: Value = serde_json::from_str(&self.text).unwrap_or_default();
        bail!("{}", problem["detail"].as_str().unwrap_or(&self.text));
    }
}

impl Remote {
    /// The address of a path below `/v1`.
    ///
    /// # Errors
    /// If `--url` is none.
    pub(super) fn address<S: AsRef<str>>(&self, path: impl IntoIterator<Item = S>) -> Result<Url> {
        let mut url: Url = self.url.parse().with_context(|| format!("--url {:?}", self.url))?;
        url.path_segments_mut()
            .ok()
            .with_context(|| format!("--url {:?} is no base of paths", self.url))?
            .pop_if_empty()
            .push("v1")
            .extend(path);
        Ok(url)
    }

    /// Reads an address, or posts to it.
    ///
    /// # Errors
    /// If there is no answer.
    pub(super) fn ask(&self, url: Url, body: Option<String>) -> Result<Answer> {
        super::serve::runtime()?.block_on(async {
            let client = self.client()?;
            let request = match body {
                Some(body) => client.post(url).body(body),
                None => client.get(url),
            };
            let response = request.bearer_auth(&self.token).send().await;
            let response = response.with_context(|| format!("asking {}", self.url))?;
            let is_done = response.status().is_success();
            let text =
                response.text().await.with_context(|| format!("reading the answer of {}", self.url))?;
            Ok(Answer { is_done, text })
        })
    }

    fn client(&self) -> Result<Client> {
        let builder = Client::builder();
        let Some(path) = &self.ca else { return Ok(builder.build()?) };
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let trusted = Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|trusted| !trusted.is_empty())
            .with_context(|| format!("{} has no certificate in PEM", path.display()))?;
        builder.tls_certs_only(trusted).build().with_context(|| format!("trusting {}", path.display()))
    }
}

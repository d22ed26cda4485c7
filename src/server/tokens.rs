//! Tokens: who may do what.
//!
//! Owns: `tokens.json` in the data directory (hashes only), checking a presented secret, roles and sources.
//! Leaves to others: what a role may call (`edge`, `ingest`).
//!
//! Invariants: a secret is shown once and never stored; comparison is constant-time; the file is replaced atomically
//! and read again when it changes, so that `tallymark token` works beside a running server; who changes it holds
//! `tokens.lock`, so that of two changes at once none is lost.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use wire::canonical::sha256_hex;

use crate::disk::{FileVersion, write_atomically};

/// File of the tokens in the data directory.
pub const TOKENS_FILE: &str = "tokens.json";
/// File whose lock is held while the tokens change. It is not the token file, which every change replaces.
const TOKENS_LOCK_FILE: &str = "tokens.lock";
/// Tokens that one directory may have.
pub const TOKENS_MAX: usize = 10_000;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Send events of its sources.
    Ingest,
    /// Pull and acknowledge charge batches.
    Billing,
    /// Read journals.
    Finance,
    /// Everything, including master data and cuts.
    Admin,
}

impl Role {
    /// The word in flags, files and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Billing => "billing",
            Role::Finance => "finance",
            Role::Admin => "admin",
        }
    }
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Name, for people and for the `actor` of records.
    pub name: String,
    /// SHA-256 of the secret; of a token without one, what names its producer.
    pub hash: String,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// Sources whose events it may send; `*` is all.
    pub sources: BTreeSet<String>,
    /// When it was made.
    pub created_at: String,
    /// Whether a client certificate with the token's name shows it, and no secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certificate: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    tokens: Vec<Token>,
}

impl Token {
    /// Whether the token has the role or is an administrator's.
    pub fn may(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.roles.contains(&Role::Admin)
    }

    /// Whether events of the source may be sent with it.
    pub fn grants_source(&self, source: &str) -> bool {
        self.may(Role::Ingest) && (self.sources.contains("*") || self.sources.contains(source))
    }

    /// First eight bytes of the hash: names the producer in the usage log.
    pub fn producer(&self) -> u64 {
        u64::from_str_radix(&self.hash[..16], 16).expect("a hash is 64 hex digits")
    }
}

/// The tokens of a data directory.
pub struct Tokens {
    path: PathBuf,
    seen: ArcSwap<(Option<FileVersion>, Vec<Arc<Token>>)>,
}

impl Tokens {
    /// Reads the tokens of a directory.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn open(data: &Path) -> Result<Self> {
        let path = data.join(TOKENS_FILE);
        // The version first: a change between the two is read again.
        let version = FileVersion::of(&path);
        let tokens = read(&path)?;
        Ok(Self { seen: ArcSwap::from_pointee((version, tokens.into_iter().map(Arc::new).collect())), path })
    }

    /// The token of a secret. Reads the file again if it changed.
    pub fn authenticate(&self, secret: &str) -> Option<Arc<Token>> {
        self.read_again();
        let hash = sha256_hex(secret.as_bytes());
        let seen = self.seen.load();
        let mut secrets = seen.1.iter().filter(|token| !token.certificate);
        secrets.find(|token| bool::from(token.hash.as_bytes().ct_eq(hash.as_bytes()))).cloned()
    }

    /// The token that a client certificate with these names shows. Reads the file again if it changed.
    pub fn of_certificate(&self, names: &[String]) -> Option<Arc<Token>> {
        self.read_again();
        let seen = self.seen.load();
        seen.1.iter().find(|token| token.certificate && names.contains(&token.name)).cloned()
    }

    /// A token that was shown before, as it is now; `None` if it was taken away. Reads the file again if it changed.
    pub fn renew(&self, token: &Arc<Token>) -> Option<Arc<Token>> {
        self.read_again();
        let seen = self.seen.load();
        if seen.1.iter().any(|known| Arc::ptr_eq(known, token)) {
            return Some(token.clone());
        }
        let is_it = |known: &&Arc<Token>| known.hash == token.hash && known.certificate == token.certificate;
        seen.1.iter().find(is_it).cloned()
    }

    fn read_again(&self) {
        let now = FileVersion::of(&self.path);
        if self.seen.load().0 != now {
            match read(&self.path) {
                Ok(tokens) => self.seen.store(Arc::new((now, tokens.into_iter().map(Arc::new).collect()))),
                Err(error) => {
                    tracing::error!("the tokens cannot be read again; the ones before stay: {error:#}")
                }
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.seen.load().1.is_empty()
    }
}

fn read(path: &Path) -> Result<Vec<Token>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let file: TokenFile = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not a token file", path.display()))?;
            if file.tokens.iter().any(|token| token.hash.len() != 64) {
                bail!("{} has a hash that is not 64 hex digits", path.display());
            }
            Ok(file.tokens)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Makes a token; gives its secret, which is shown once.
///
/// # Errors
/// If the name is taken or the file cannot be written.
pub fn create(data: &Path, name: &str, roles: BTreeSet<Role>, sources: BTreeSet<String>) -> Result<String> {
    let mut secret_bytes = [0u8; 32];
    getrandom::fill(&mut secret_bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let secret: String = std::iter::once("tm_".to_string())
        .chain(secret_bytes.iter().map(|byte| format!("{byte:02x}")))
        .collect();
    add(data, name, roles, sources, sha256_hex(secret.as_bytes()), false)?;
    Ok(secret)
}

/// Makes a token without a secret: a client certificate that has its name as a DNS name shows it.
///
/// # Errors
/// As [`create`].
pub fn create_for_certificate(
    data: &Path,
    name: &str,
    roles: BTreeSet<Role>,
    sources: BTreeSet<String>,
) -> Result<()> {
    add(data, name, roles, sources, sha256_hex(format!("certificate {name}").as_bytes()), true)
}

fn add(
    data: &Path,
    name: &str,
    roles: BTreeSet<Role>,
    sources: BTreeSet<String>,
    hash: String,
    certificate: bool,
) -> Result<()> {
    let _lock = lock(data)?;
    let mut tokens = list(data)?;
    if name.is_empty() || name.len() > 64 {
        bail!("a token's name has 1 to 64 characters");
    }
    if tokens.iter().any(|token| token.name == name) {
        bail!("there is a token named {name:?} already; revoke it first");
    }
    if tokens.len() >= TOKENS_MAX {
        bail!("a directory has at most {TOKENS_MAX} tokens");
    }
    tokens.push(Token {
        name: name.to_string(),
        hash,
        roles,
        sources,
        created_at: crate::clock::real_now().to_string(),
        certificate,
    });
    write(data, tokens)
}

/// The tokens of a directory.
///
/// # Errors
/// If the file cannot be read.
pub fn list(data: &Path) -> Result<Vec<Token>> {
    read(&data.join(TOKENS_FILE))
}

/// Takes a token away; connections that use it end with their next batch.
///
/// # Errors
/// If there is no such token or the file cannot be written.
pub fn revoke(data: &Path, name: &str) -> Result<()> {
    let _lock = lock(data)?;
    let mut tokens = list(data)?;
    let before = tokens.len();
    tokens.retain(|token| token.name != name);
    if tokens.len() == before {
        bail!("there is no token named {name:?}");
    }
    write(data, tokens)
}

/// Waits until nobody else changes the tokens; held until it is dropped.
fn lock(data: &Path) -> Result<File> {
    let path = data.join(TOKENS_LOCK_FILE);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn write(data: &Path, tokens: Vec<Token>) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(&TokenFile { tokens })?;
    write_atomically(data, TOKENS_FILE, &bytes).with_context(|| format!("cannot write {TOKENS_FILE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_once_and_only_its_hash_is_kept() {
        let data = tempfile::tempdir().unwrap();
        let secret = create(data.path(), "app", [Role::Ingest].into(), ["shop".to_string()].into()).unwrap();
        assert!(create(data.path(), "app", BTreeSet::new(), BTreeSet::new()).is_err());
        let stored = std::fs::read_to_string(data.path().join(TOKENS_FILE)).unwrap();
        assert!(!stored.contains(&secret));
        let tokens = Tokens::open(data.path()).unwrap();
        let token = tokens.authenticate(&secret).unwrap();
        assert!(token.grants_source("shop") && !token.grants_source("other") && !token.may(Role::Billing));
        assert!(tokens.authenticate("tm_wrong").is_none());
        create(data.path(), "other", [Role::Admin].into(), BTreeSet::new()).unwrap();
        let renewed = tokens.renew(&token).unwrap();
        assert!(renewed == token && !Arc::ptr_eq(&renewed, &token), "the file was read again");
        revoke(data.path(), "other").unwrap();
        assert!(tokens.renew(&token).is_some());
        revoke(data.path(), "app").unwrap();
        assert!(tokens.renew(&token).is_none());
        assert!(Tokens::open(data.path()).unwrap().authenticate(&secret).is_none());
        assert!(revoke(data.path(), "app").is_err());
    }

    /// A change of the same length in the same tick of the file system's clock was not seen: a revoked token stayed good.
    #[test]
    fn a_change_is_seen_although_time_and_length_stay() {
        let data = tempfile::tempdir().unwrap();
        let first = create(data.path(), "one", [Role::Admin].into(), BTreeSet::new()).unwrap();
        let tokens = Tokens::open(data.path()).unwrap();
        let path = data.path().join(TOKENS_FILE);
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!(tokens.authenticate(&first).is_some());
        let other = tempfile::tempdir().unwrap();
        let second = create(other.path(), "two", [Role::Admin].into(), BTreeSet::new()).unwrap();
        let mut changed = list(other.path()).unwrap();
        changed[0].created_at = list(data.path()).unwrap()[0].created_at.clone();
        write(data.path(), changed).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
        assert!(tokens.authenticate(&first).is_none() && tokens.authenticate(&second).is_some());
    }

    #[test]
    fn a_token_of_a_certificate_is_shown_by_its_name_and_by_no_secret() {
        let data = tempfile::tempdir().unwrap();
        create_for_certificate(data.path(), "checkout", [Role::Ingest].into(), ["shop".into()].into())
            .unwrap();
        create(data.path(), "ops", [Role::Admin].into(), BTreeSet::new()).unwrap();
        let tokens = Tokens::open(data.path()).unwrap();
        let names = |name: &str| vec!["other".to_string(), name.to_string()];
        assert!(tokens.of_certificate(&names("checkout")).unwrap().grants_source("shop"));
        assert!(tokens.of_certificate(&names("ops")).is_none(), "a token with a secret needs it");
        assert!(tokens.authenticate("certificate checkout").is_none());
        revoke(data.path(), "checkout").unwrap();
        assert!(tokens.of_certificate(&names("checkout")).is_none());
    }

    #[test]
    fn of_changes_at_once_none_is_lost() {
        let data = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
                let path = data.path();
                scope.spawn(move || create(path, name, BTreeSet::new(), BTreeSet::new()).unwrap());
            }
        });
        assert_eq!(list(data.path()).unwrap().len(), 8);
    }
}

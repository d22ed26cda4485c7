//! `tallymark token create|list|revoke`

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::tokens::{self, Role};

/// `tallymark token`
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Data directory.
    #[arg(long, env = "TALLYMARK_DATA", default_value = "tallymark-data", global = true)]
    data: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token; its secret is printed once.
    Create {
        /// Name of the token.
        name: String,
        /// What it may do; repeat for more.
        #[arg(long = "role", required = true, value_enum)]
        roles: Vec<Role>,
        /// Sources whose events it may send, `*` for all; repeat for more.
        #[arg(long = "source")]
        sources: Vec<String>,
        /// Without a secret: a client certificate with the token's name as a DNS name shows it (QUIC only).
        #[arg(long)]
        certificate: bool,
    },
    /// List tokens.
    List,
    /// Take a token away.
    Revoke {
        /// Name of the token.
        name: String,
    },
}

/// Runs the command; a running server sees the change at once.
///
/// # Errors
/// If the tokens cannot be read or written.
pub fn run(args: TokenArgs) -> Result<()> {
    std::fs::create_dir_all(&args.data).with_context(|| format!("cannot make {}", args.data.display()))?;
    match args.action {
        Action::Create { name, roles, sources, certificate } => {
            let (roles, sources) = (BTreeSet::from_iter(roles), BTreeSet::from_iter(sources));
            if certificate {
                tokens::create_for_certificate(&args.data, &name, roles, sources)?;
                println!("made {name}, for client certificates");
            } else {
                println!("{}", tokens::create(&args.data, &name, roles, sources)?);
            }
        }
        Action::List => {
            for token in tokens::list(&args.data)? {
                let roles: Vec<&str> = token.roles.iter().map(|role| role.as_str()).collect();
                let sources: Vec<&str> = token.sources.iter().map(String::as_str).collect();
                println!(
                    "{:24} {:24} sources {:24} created {}",
                    token.name,
                    roles.join(","),
                    if sources.is_empty() { "none".to_string() } else { sources.join(",") },
                    token.created_at
                );
            }
        }
        Action::Revoke { name } => {
            tokens::revoke(&args.data, &name)?;
            println!("revoked {name}");
        }
    }
    Ok(())
}

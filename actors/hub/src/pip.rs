//! What pip's own configuration says about the package index and its certificates, so that a machine on which
//! `pip install` works can fetch models too. pip's order: files, then `PIP_CONFIG_FILE`, then environment variables.

use std::path::{Path, PathBuf};

/// The two settings we share with pip.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PipConfig {
    /// `index-url`.
    pub index: Option<String>,
    /// `cert`.
    pub certificates: Option<PathBuf>,
}

impl PipConfig {
    pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut pip = Self::default();
        for path in files(variable) {
            if let Ok(text) = std::fs::read_to_string(path) {
                pip.take(&text);
            }
        }
        pip.index = variable("PIP_INDEX_URL").or(pip.index);
        let bundle = variable("PIP_CERT").or_else(|| variable("REQUESTS_CA_BUNDLE"));
        pip.certificates = bundle.map(PathBuf::from).or(pip.certificates);
        pip
    }

    /// Takes over what the `[global]` section of a file says. Comments, other sections and other keys are skipped.
    fn take(&mut self, text: &str) {
        let mut global = false;
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                global = section.trim() == "global";
            } else if let Some((key, value)) = line.split_once(['=', ':']).filter(|_| global && !is_comment(line)) {
                match (key.trim().replace('_', "-").as_str(), value.trim()) {
                    (_, "") => {}
                    ("index-url", url) => self.index = Some(url.to_owned()),
                    ("cert", path) => self.certificates = Some(path.into()),
                    _ => {}
                }
            }
        }
    }
}

fn is_comment(line: &str) -> bool {
    line.starts_with(['#', ';'])
}

/// pip's files on Linux, the weakest first. `PIP_CONFIG_FILE=/dev/null` switches all of them off, as in pip.
fn files(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let named = variable("PIP_CONFIG_FILE").map(PathBuf::from);
    if named.as_deref() == Some(Path::new("/dev/null")) {
        return Vec::new();
    }
    let home = variable("HOME").map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.as_ref().map(|h| h.join(".config")));
    [
        Some(PathBuf::from("/etc/xdg/pip/pip.conf")),
        Some(PathBuf::from("/etc/pip.conf")),
        home.map(|home| home.join(".pip/pip.conf")),
        config.map(|config| config.join("pip/pip.conf")),
        named,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_and_variables_win() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/pip")).unwrap();
        std::fs::write(
            home.path().join(".config/pip/pip.conf"),
            "[install]\nindex-url = https://not-this/\n[global]\n# index-url = https://nor-this/\nindex_url = https://a/simple\ncert=/c.pem\n",
        )
        .unwrap();
        let read = |extra: Option<(&str, &str)>| {
            let home = home.path().to_str().unwrap().to_owned();
            PipConfig::read(&move |name| match (name, extra) {
                ("HOME", _) => Some(home.clone()),
                (name, Some((key, value))) if name == key => Some(value.to_owned()),
                _ => None,
            })
        };
        let from_file =
            PipConfig { index: Some("https://a/simple".into()), certificates: Some(PathBuf::from("/c.pem")) };
        assert_eq!(read(None), from_file);
        assert_eq!(read(Some(("PIP_INDEX_URL", "https://b/"))).index.as_deref(), Some("https://b/"));
        assert_eq!(read(Some(("REQUESTS_CA_BUNDLE", "/d.pem"))).certificates, Some("/d.pem".into()));
        assert_eq!(read(Some(("PIP_CONFIG_FILE", "/dev/null"))), PipConfig::default());
    }
}

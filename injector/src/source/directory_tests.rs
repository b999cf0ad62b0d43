use super::*;

struct Bed {
    folder: tempfile::TempDir,
    directory: Directory,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().to_owned());
        Self { folder, directory }
    }

    /// Writes as writers must: next to it, then renamed into place.
    fn write(&self, name: &str, text: &str) {
        let draft = self.folder.path().join(".draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.folder.path().join(name)).unwrap();
    }

    #[track_caller]
    fn check(&mut self, expected: &[&str]) {
        let changes = self.directory.scan(&BTreeSet::new(), Timestamp::UNIX_EPOCH).unwrap();
        let changes: Vec<String> = changes
            .iter()
            .map(|(key, object)| format!("{}{key}", if object.is_some() { "+" } else { "-" }))
            .collect();
        assert_eq!(changes, expected);
    }

    fn error(&self, file: usize) -> Option<String> {
        self.directory.report().files.remove(file).error
    }
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n"
    )
}

#[test]
fn objects_come_change_and_go_with_their_file() {
    let mut bed = Bed::new();
    bed.write("a.yaml", &(service("web", "80") + &service("api", "80")));
    bed.check(&["+Service shop/api", "+Service shop/web"]);
    bed.write("a.yaml", &service("web", "81"));
    bed.check(&["-Service shop/api", "+Service shop/web"]);
    fs::remove_file(bed.folder.path().join("a.yaml")).unwrap();
    bed.check(&["-Service shop/web"]);
}

#[test]
fn an_unchanged_file_written_again_changes_nothing_but_the_generation() {
    let mut bed = Bed::new();
    bed.write("a.yaml", &service("web", "80"));
    bed.check(&["+Service shop/web"]);
    bed.check(&[]);
    assert_eq!(bed.directory.report().generation, 1);
    bed.write("a.yaml", &service("web", "80"));
    bed.check(&[]);
    assert_eq!(bed.directory.report().generation, 2);
}

#[test]
fn a_broken_document_keeps_the_last_good_objects_and_takes_the_good_ones() {
    let mut bed = Bed::new();
    bed.write("a.yaml", &(service("web", "80") + &service("api", "80")));
    bed.check(&["+Service shop/api", "+Service shop/web"]);
    bed.write("a.yaml", &(service("web", "eighty") + &service("api", "81")));
    bed.check(&["+Service shop/api"]);
    let error = bed.error(0).unwrap();
    assert!(error.starts_with("document 0: Service shop/web: "), "{error}");
    bed.write("a.yaml", &(service("web", "82") + &service("api", "81")));
    bed.check(&["+Service shop/web"]);
    assert_eq!(bed.error(0), None);
}

#[test]
fn broken_syntax_keeps_everything() {
    let mut bed = Bed::new();
    bed.write("a.yaml", &service("web", "80"));
    bed.check(&["+Service shop/web"]);
    bed.write("a.yaml", "{");
    bed.check(&[]);
    assert!(bed.error(0).is_some());
}

#[test]
fn a_file_that_cannot_be_looked_at_keeps_its_last_good_objects() {
    let mut bed = Bed::new();
    bed.write("a.yaml", &service("web", "80"));
    bed.check(&["+Service shop/web"]);
    // A link to itself: there, but for nobody to follow.
    let path = bed.folder.path().join("a.yaml");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("a.yaml", &path).unwrap();
    bed.check(&[]);
    assert!(bed.error(0).is_some());
    bed.check(&[]);
    assert_eq!(bed.directory.report().generation, 2);
    bed.write("a.yaml", &service("api", "80"));
    bed.check(&["+Service shop/api", "-Service shop/web"]);
}

#[test]
fn the_first_file_by_name_wins() {
    let mut bed = Bed::new();
    bed.write("b.yaml", &service("web", "81"));
    bed.check(&["+Service shop/web"]);
    bed.write("a.yaml", &service("web", "80"));
    bed.check(&["+Service shop/web"]);
    assert!(bed.error(1).unwrap().contains("a.yaml, too"));
    fs::remove_file(bed.folder.path().join("a.yaml")).unwrap();
    bed.check(&["+Service shop/web"]);
    assert_eq!(bed.error(0), None);
}

#[test]
fn other_files_and_folders_are_left_alone() {
    let mut bed = Bed::new();
    bed.write("notes.txt", "{");
    bed.write(".hidden.yaml", "{");
    fs::create_dir(bed.folder.path().join("sub.yaml")).unwrap();
    bed.check(&[]);
    assert!(bed.directory.report().files.is_empty());
}

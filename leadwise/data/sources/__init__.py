"""One file per data set: `read_source` turns its folder into a `Source`. `catalogue` finds a data set by its file's name.

A file NAME.py here has:

    Options                                            a frozen dataclass of the options of `leadwise prepare NAME`;
                                                       each field has a default and field(metadata={"help": ...})
    TASKS: tuple[Task, ...]                            the label sets of the data set
    read_source(folder, options=None) -> Source        the rows; raises CohortError

The first line of its docstring is the title in `leadwise prepare NAME --help`. No source opens a recording, except where
only the recording contains age and sex.
"""

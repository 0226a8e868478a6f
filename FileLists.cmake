# Every file that is installed. Written by Testing/guards/update_file_lists.py; do not edit by hand.

set(BrainSegSAM_MODULE_SCRIPTS
  BrainSegSAMWidgets/__init__.py
  )

set(BrainSegSAM_MODULE_RESOURCES
  )

set(BrainSegSAM_LIBRARY_SCRIPTS
  BrainSegSAMLib/__init__.py
  BrainSegSAMLib/backends/__init__.py
  BrainSegSAMLib/backends/checkpoints.py
  BrainSegSAMLib/components.py
  BrainSegSAMLib/dicom.py
  BrainSegSAMLib/errors.py
  BrainSegSAMLib/files.py
  BrainSegSAMLib/geometry.py
  BrainSegSAMLib/headers.py
  BrainSegSAMLib/image.py
  BrainSegSAMLib/itk.py
  BrainSegSAMLib/labels.py
  BrainSegSAMLib/models/__init__.py
  BrainSegSAMLib/models/schema.py
  BrainSegSAMLib/models/store.py
  BrainSegSAMLib/mrml/__init__.py
  BrainSegSAMLib/mrml/segmentations.py
  BrainSegSAMLib/mrml/spaces.py
  BrainSegSAMLib/mrml/volumes.py
  BrainSegSAMLib/nnunet_trainers/BrainSegTrainer.py
  BrainSegSAMLib/phantom.py
  BrainSegSAMLib/progress.py
  BrainSegSAMLib/resources.py
  BrainSegSAMLib/segmentation_files.py
  BrainSegSAMLib/volumes.py
  )

set(BrainSegSAM_LIBRARY_RESOURCES
  BrainSegSAMLib/models/model.schema.json
  Resources/Icons/BrainSegSAM.png
  Resources/requirements.txt
  )
